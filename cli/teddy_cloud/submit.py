"""``teddy-cloud submit``: one spec carried out on a cluster, as a RayJob in a namespace that has the chart.

    teddy-cloud submit --ipc 100 --gpus 16
    teddy-cloud submit --ipc 10 --gpus 0 --workers 4 --wait
    teddy-cloud submit --ipc 100 --gpus 16 --dry-run | kubectl apply -f -

A run's name is its spec's, so submitting the same spec again finds the run that is there: one that goes on, or has
finished, is left as it is (exit code 0); one that ended otherwise is for ``resume`` (exit code 2). ``--wait`` ends with
the run's own result: 0 finished, 1 failed, 2 refused by KubeRay, 130 cancelled.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teddy_cloud.asked import (
    ClassesOption,
    DataOption,
    DeviceOption,
    GpusOption,
    GpusPerNodeOption,
    GpuTypeOption,
    IpcOption,
    PerClassOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SkipBrokenOption,
    SpecOption,
    WorkersOption,
    resolve,
    spec_flags,
)
from teddy_cloud.hints import command
from teddy_cloud.stores import ContextOption, NamespaceOption, Place, find_cluster, seconds
from teddy_ray.errors import UserError

if TYPE_CHECKING:
    from teddy_cloud.cluster.api import Cluster
    from teddy_cloud.cluster.render import Job, Manifest
    from teddy_cloud.cluster.settings import Settings
    from teddy_cloud.cluster.state import RunState


def submit(
    *,
    spec: SpecOption = None,
    recipe: RecipeOption = None,
    data: DataOption = None,
    classes: ClassesOption = None,
    per_class: PerClassOption = None,
    ipc: IpcOption = None,
    gpus: GpusOption = None,
    workers: WorkersOption = None,
    gpus_per_node: GpusPerNodeOption = None,
    gpu_type: GpuTypeOption = None,
    spot: Annotated[
        bool, typer.Option("--spot", help="Prefer spot nodes for workers, and tolerate their taints.")
    ] = False,
    image: Annotated[
        str | None, typer.Option(metavar="NAME@DIGEST", help="The image of all pods; else the namespace's.")
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", metavar="HOURS", help="End the run after this, whatever it does.")
    ] = None,
    queue_timeout: Annotated[
        str | None,
        typer.Option("--queue-timeout", metavar="TIME", help="Give up where pods do not start within, say, 30m."),
    ] = None,
    queue: Annotated[str | None, typer.Option(metavar="NAME", help="A Kueue LocalQueue to wait in.")] = None,
    priority: Annotated[
        str | None, typer.Option(metavar="NAME", help="With a queue a WorkloadPriorityClass, else a PriorityClass.")
    ] = None,
    retries: Annotated[
        int | None, typer.Option(metavar="N", help="New Ray clusters, should one fail; work that is done is kept.")
    ] = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    overrides: SetOption = None,
    skip_broken: SkipBrokenOption = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the run's end, and exit with its result.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print exactly what would be sent, for kubectl apply -f -; send nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Distil a dataset on a Kubernetes cluster, as a RayJob.

    Settings come from the recipe, then the namespace's own, then --spec, then the flags, then --set.

    The same spec again finds the run that is there. Nothing here needs access to the store.
    """
    from teddy_cloud.cluster.possible import slots

    asked_gpus, asked_workers = slots(gpus, workers)
    cluster = find_cluster(context, namespace)
    settings = _settings(
        cluster,
        queue_timeout,
        {
            "--image": image,
            "--gpus-per-node": gpus_per_node,
            "--gpu-type": gpu_type,
            "--max-hours": max_hours,
            "--queue": queue,
            "--priority": priority,
            "--retries": retries,
        },
    )
    flags = spec_flags(
        data=data, classes=classes, per_class=per_class, ipc=ipc, device=device, seed=seed, skip_broken=skip_broken
    )
    asked = resolve(recipe, spec, flags, overrides or [], namespace=settings.spec)

    from teddy_cloud.cluster.render import Job, manifest_yaml, render
    from teddy_ray.pipeline.names import run_name

    job = Job(run_name(asked), cluster.namespace, asked, asked_gpus, asked_workers, spot)
    manifest = render(job, settings)
    if dry_run:
        typer.echo(json.dumps(manifest) if as_json else manifest_yaml(manifest), nl=as_json)
        return
    state = send(cluster, manifest)
    told = _told(job, settings, cluster, created=state is None)
    if not as_json:
        _print(job, settings, cluster, state)
    if wait:
        state = _end_of(cluster, job.run)
    if as_json:
        typer.echo(json.dumps({**told, "state": str(state.phase) if state else "submitted"}))
    if wait and state:
        raise typer.Exit(state.phase.exit_code or 0)


def _end_of(cluster: Cluster, run: str) -> RunState:
    """The state in which the run has ended, once it has."""
    from teddy_cloud.cluster.watch import wait
    from teddy_cloud.config import load

    return wait(Place(cluster, None, load().endpoint_url), run)


def _settings(cluster: Cluster, queue_timeout: str | None, flags: dict[str, Any]) -> Settings:
    """The namespace's settings as the flags change them."""
    from teddy_cloud.cluster.flags import changed

    minutes = None if queue_timeout is None else seconds(queue_timeout, option="--queue-timeout") / 60
    return changed(cluster.settings(), {**flags, "--queue-timeout": minutes})


def send(cluster: Cluster, manifest: Manifest) -> RunState | None:
    """Create the RayJob, and None; or the state of the one that is there, if it still goes on or has finished.

    Raises UserError where it ended otherwise: what is done with it then, only the user can say.
    """
    from teddy_cloud.cluster.api import ExistsError
    from teddy_cloud.cluster.state import Phase, state_of

    run = manifest["metadata"]["name"]
    try:
        cluster.create(manifest)
    except ExistsError:
        there = cluster.get(run)
        if there is None:
            raise
    else:
        return None
    if there["metadata"].get("deletionTimestamp"):
        raise UserError(f"run {run} is just being deleted: submit it again in a minute")
    state = state_of(there)
    if state.phase is Phase.invalid:
        raise UserError(
            f"run {run} is there already, and KubeRay refuses it ({state.message}): `{command('delete', run)}`, then"
            " submit it again, changed"
        )
    if state.phase is Phase.paused or (state.phase.is_terminal and state.phase is not Phase.finished):
        reason = f" ({state.reason})" if state.reason else ""
        raise UserError(
            f"run {run} is there already, and {state.phase}{reason}: `{command('resume', run)}` goes on with it"
        )
    return state


def _told(job: Job, settings: Settings, cluster: Cluster, *, created: bool) -> dict[str, Any]:
    """What scripts rely on."""
    from teddy_cloud.cluster.render import run_uri

    return {
        "run": job.run,
        "namespace": cluster.namespace,
        "created": created,
        "digest": job.spec.digest,
        "store": run_uri(settings, job.run),
        "gpus": job.gpus,
        "workers": job.gpus or job.workers,
        "makes": _makes(job),
    }


def _makes(job: Job) -> dict[str, int]:
    """What is made, as far as it is known without the data."""
    from teddy_ray.pipeline.counts import classes_of, counts, known

    facts = known(job.spec.data)
    classes = facts.classes if facts else classes_of(job.spec.data)
    return counts(job.spec, classes) if classes else {}


def _print(job: Job, settings: Settings, cluster: Cluster, found: RunState | None) -> None:
    from teddy_cloud.cluster.render import run_uri
    from teddy_ray.report.text import printable

    place = f"namespace {cluster.namespace}"
    if found is None:
        typer.echo(f"Submitted {job.run} to {place}")
    else:
        typer.echo(f"{job.run} is in {place} already, and {found.phase}: nothing was sent")
    for name, line in [*summary(job, settings), ("store", run_uri(settings, job.run))]:
        typer.echo(f"  {name:<8}{printable(line)}")
    typer.echo("\nNext")
    run = job.run
    commands: dict[str, tuple[str, ...]] = {"watch": ("status", run, "--watch"), "log": ("logs", run, "-f")}
    commands |= {"results": ("pull", run, run), "stop": ("cancel", run)}
    for name, words in commands.items():
        typer.echo(f"  {name:<8}{command(*words)}")


def summary(job: Job, settings: Settings) -> list[tuple[str, str]]:
    """What runs where and what it makes, from what is known without the data and without torch."""
    from teddy_cloud.show import label_text
    from teddy_ray.report.text import count

    if job.gpus:
        of_type = f" of type {settings.worker.gpu_type}" if settings.worker.gpu_type else ""
        on = f"{count(job.gpus, 'GPU')}{of_type}, at most {settings.worker.gpus_per_node} a pod"
    else:
        on = f"{count(job.workers, 'worker')} on CPUs, at most {settings.worker.slots_per_pod} a pod"
    makes, spec = _makes(job), job.spec
    if not makes:
        known = f"{count(spec.distill.ipc, 'image')} a class, of as many classes as {spec.data.source} has"
        return [("on", on), ("makes", known)]
    slots = job.gpus or job.workers
    idle = f", fewer than the {count(slots, 'worker')}" if makes["units"] < slots else ""
    images, classes = count(makes["images"], "image"), count(makes["classes"], "class", "classes")
    return [
        ("on", on),
        ("makes", f"{images} of {classes}, in {count(makes['units'], 'unit')}{idle}"),
        ("labels", label_text(makes)),
        ("trains", f"the base, {count(makes['members'], 'member')}, {count(makes['students'], 'student')}"),
    ]
