"""A run as the RayJob that is sent to the cluster: one pure function, which golden files check.

    job = Job(run=run_name(spec), namespace="ml", spec=spec, gpus=16, workers=16)
    print(manifest_yaml(render(job, settings)))

The RayJob holds all that a run needs: the spec travels in the head's environment, and the driver commits it to the
store as its first act. Nothing that a user types is in a command line; no secret is in here, but Secrets' names.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from teddy_cloud.cluster import pods
from teddy_cloud.cluster.possible import refuse_impossible
from teddy_cloud.cluster.settings import TOKEN_SECRET, Settings
from teddy_ray.errors import UserError

if TYPE_CHECKING:
    from teddy_ray.spec import Spec

RAY_VERSION = "2.60.0"
"""The image's; KubeRay chooses its probes and the way of authentication by it."""
SUBMITTER_RETRIES = 3
"""The submitter only waits, submits once and follows the log: trying again is cheap, and outlives a new head."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What a user asks for. ``gpus`` > 0 are that many slots; with 0, ``workers`` are slots on CPUs."""

    run: str
    namespace: str
    spec: Spec
    gpus: int
    workers: int
    spot: bool = False


def render(job: Job, settings: Settings) -> Manifest:
    """The RayJob (ray.io/v1). Raises UserError for what cannot be asked for."""
    refuse_impossible(job.run, job.spec, gpus=job.gpus, workers=job.workers)
    uri = run_uri(settings, job.run)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": job.run,
            "namespace": job.namespace,
            "labels": {**pods.labels(job.run), **_queue_labels(settings)},
            "annotations": {"teddy-cloud/spec-digest": job.spec.digest, "teddy-cloud/store": settings.store.uri},
        },
        "spec": {
            "submissionMode": "K8sJobMode",
            "entrypoint": f"teddy-cloud drive {shlex.quote(uri)}",
            "metadata": {"run": job.run, "spec-digest": job.spec.digest},
            **_limits(settings),
            "submitterConfig": {"backoffLimit": SUBMITTER_RETRIES},
            "submitterPodTemplate": pods.submitter(job.run, settings),
            "rayClusterSpec": {
                "rayVersion": RAY_VERSION,
                "authOptions": {"mode": "token", "secretName": TOKEN_SECRET},
                "headGroupSpec": pods.head(job.run, settings, env=_driver_env(job), spot=job.spot),
                "workerGroupSpecs": _worker_groups(job, settings),
            },
        },
    }


def run_uri(settings: Settings, run: str) -> str:
    """Where a run is kept. Raises UserError for an address that is not safe in a command.

    Two shells read the entrypoint, the submitter's and the one that starts the driver, so one quoting is not enough.
    """
    uri = f"{settings.store.uri.rstrip('/')}/runs/{run}"
    strange = re.search(r"[^A-Za-z0-9._/:@+=,-]", uri)
    if strange:
        raise UserError(
            f"store.uri = '{settings.store.uri}' has {strange[0]!r} in it; give a prefix of letters, digits and . _ - /"
        )
    return uri


def manifest_yaml(manifest: Manifest) -> str:
    """The manifest as people read it, its keys in the order in which they were written; the same bytes every time."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Plain YAML: no aliases, and text of many lines as such."""

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - yaml's signature
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(manifest, Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True)


def _queue_labels(settings: Settings) -> dict[str, str]:
    job = settings.job
    labels = {
        "kueue.x-k8s.io/queue-name": job.queue,
        "kueue.x-k8s.io/priority-class": job.priority if job.queue else "",
    }
    return {name: value for name, value in labels.items() if value}


def _limits(settings: Settings) -> dict[str, Any]:
    """How often and how long. The pods go at the end, or the GPUs of a finished run would wait for nobody."""
    job, limits = settings.job, {}
    limits["backoffLimit"] = job.retries
    limits["activeDeadlineSeconds"] = ceil(job.max_hours * 3600)
    waits = job.queue_timeout_minutes
    # With Kueue, waiting is what a queue is for, and its clock would run meanwhile.
    if waits is not None and not job.queue and waits < job.max_hours * 60:
        limits["preRunningDeadlineSeconds"] = ceil(waits * 60)
    return {
        **limits,
        "shutdownAfterJobFinishes": True,  # Kueue and suspending ask for it too
        "ttlSecondsAfterFinished": ceil(job.keep_minutes * 60),
    }


def _driver_env(job: Job) -> dict[str, str]:
    """What the driver is told; the spec as JSON, with every ``$`` doubled, since Kubernetes expands ``$(NAME)``."""
    compute = job.spec.compute.model_copy(update={"executor": "ray", "workers": job.gpus or job.workers})
    spec = job.spec.model_copy(update={"compute": compute})
    return {"TEDDY_SLOT": "GPU" if job.gpus else "CPU", "TEDDY_SPEC": spec.to_json().replace("$", "$$")}


def _worker_groups(job: Job, settings: Settings) -> list[dict[str, Any]]:
    """Full pods, and one group more for what is left over: 20 GPUs of 8 a node are 8 + 8 and 4."""
    slots = job.gpus or job.workers
    full = min(slots, settings.worker.gpus_per_node if job.gpus else settings.worker.slots_per_pod)
    name = "gpu" if job.gpus else "cpu"
    groups = [(name, slots // full, full), (f"{name}-rest", 1, slots % full)]
    return [
        pods.worker_group(job.run, settings, name=name, replicas=replicas, slots=size, gpu=job.gpus > 0, spot=job.spot)
        for name, replicas, size in groups
        if size
    ]
