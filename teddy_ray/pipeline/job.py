"""A run as the job of a Ray cluster: this process is the driver, on the cluster's head.

    results = run(spec, open_store("s3://bucket/runs"), "digits-ipc10-teddy-1a2b3c4d", gpus=True, emit=print)

Every attempt begins alike. The spec that the first one left in the store, with nothing "auto" in it, is that of the
later ones too, be their machines of another kind: only how many workers there are is the attempt's own.
"""

from __future__ import annotations

from teddy_ray.pipeline import driver
from teddy_ray.pipeline.context import Context
from teddy_ray.pipeline.events import Emit, Event
from teddy_ray.pipeline.executors.ray import RayExecutor, Site, settle_there
from teddy_ray.pipeline.metrics import Metrics
from teddy_ray.pipeline.results import Results
from teddy_ray.spec import Spec
from teddy_ray.store import MissingKeyError, Store


def run(spec: Spec, store: Store, name: str, *, gpus: bool, emit: Emit) -> Results:
    """Carry ``spec`` out on this cluster as the run ``name``, or go on with it; ``gpus``: each worker has one.

    Returns and raises as ``driver.run`` does.
    """
    site = Site(cluster=True, gpus=gpus)
    settled, device_name = settle_there(_as_begun(spec, store, name), site)
    publish = Metrics(name)

    def say(event: Event) -> None:
        publish(event)
        emit(event)

    context = Context(settled, store, say, device_name=device_name)
    return driver.attempt(context, name, lambda context: RayExecutor(context, site))


def _as_begun(spec: Spec, store: Store, name: str) -> Spec:
    """The spec as the run's first attempt has settled it, if there was one, with this attempt's workers."""
    try:
        begun = Spec.from_json(store.get(f"runs/{name}/spec.json"))
    except MissingKeyError:
        begun = spec
    compute = begun.compute.model_copy(update={"workers": spec.compute.workers, "executor": "ray"})
    return begun.model_copy(update={"compute": compute})
