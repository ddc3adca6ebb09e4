"""``teddy-cloud cancel``, ``pause``, ``resume``, ``delete``: what is done to a run in the cluster once it is submitted.

    teddy-cloud cancel digits-ipc10
    teddy-cloud resume digits-ipc10

Whatever happens to the RayJob, what the run has finished stays in the store, and resume goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teddy_cloud.hints import command
from teddy_cloud.stores import ContextOption, EndpointOption, NamespaceOption, RunArgument, StoreOption, find
from teddy_ray.errors import UserError, WorldError

if TYPE_CHECKING:
    from teddy_cloud.cluster.api import Cluster
    from teddy_cloud.cluster.state import RunState
    from teddy_cloud.stores import Place

DASHBOARD_PORT = 8265
STOP_SECONDS = 120.0
"""Ray gives the driver some seconds to end, KubeRay some more to notice."""
GONE_SECONDS = 180.0
"""A RayJob stays until its pods have used their grace."""
POLL_SECONDS = 2.0


def cancel(
    run: RunArgument,
    *,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="Delete its RayJob instead of asking the run to end: for one that hangs.")
    ] = False,
) -> None:
    """Stop a run. What it has finished stays in the store, and `resume` goes on from there."""
    place = of_cluster(context, namespace)
    cluster, name = _found(place, run)
    rayjob = cluster.get(name)
    if rayjob is None:
        raise UserError(f"{name} has no RayJob in {cluster.where}, so nothing of it is at work there")
    state = _state(place, name, rayjob)
    if state.phase.is_terminal:
        raise UserError(f"{name} has ended already: it is {state.phase}")
    if not now and (rayjob.get("status") or {}).get("jobStatus") in ("PENDING", "RUNNING"):
        _stop(cluster, rayjob)
        typer.echo(f"{name} is cancelled: what it has finished is kept; go on with: {command('resume', name)}")
    else:
        cluster.delete(name)
        typer.echo(f"{name} is cancelled and its RayJob deleted: what it has finished is kept{_again(place, name)}")


def pause(run: RunArgument, *, context: ContextOption = None, namespace: NamespaceOption = None) -> None:
    """Free a run's machines for a while: its pods go, what it has finished stays, and `resume` goes on from there."""
    from teddy_cloud.cluster.state import QUEUE_LABEL, Phase

    place = of_cluster(context, namespace)
    cluster, name = _found(place, run)
    rayjob = cluster.get(name)
    if rayjob is None:
        raise UserError(f"{name} has no RayJob in {cluster.where}, so there is nothing to pause")
    state = _state(place, name, rayjob)
    if state.phase.is_terminal or state.phase is Phase.paused:
        raise UserError(f"{name} is {state.phase} already, so there is nothing to pause")
    if queue := (rayjob["metadata"].get("labels") or {}).get(QUEUE_LABEL):
        raise UserError(
            f"{name} is in the queue {queue}, which decides itself what runs: cancel it, and resume it later"
        )
    cluster.patch(name, {"spec": {"suspend": True}})
    typer.echo(f"{name} is paused: what it has finished is kept; go on with: {command('resume', name)}")


def resume(
    run: RunArgument,
    *,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, help="With so many GPUs; else as many as before.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="On so many CPU workers; else as many as before.")
    ] = None,
) -> None:
    """Go on with a run that is paused, cancelled, failed, or whose RayJob is gone. What it has finished is not redone.

    The spec stays as it was submitted. --gpus and --workers give it another size, and take the namespace's settings
    anew.
    """
    from teddy_cloud.cluster.state import QUEUE_LABEL, Phase

    place = of_cluster(context, namespace)
    cluster, name = _found(place, run)
    rayjob = cluster.get(name)
    state = _state(place, name, rayjob)
    resized = gpus is not None or workers is not None
    if state.phase is Phase.finished:
        raise UserError(
            f"{name} is finished, so there is nothing to resume: {command('pull', name, 'OUT')} brings it here"
        )
    if rayjob is not None and not state.phase.is_terminal and state.phase is not Phase.paused:
        raise UserError(f"{name} is {state.phase}, so there is nothing to resume: see {command('status', name)}")
    if rayjob is None and state.phase is Phase.running:
        raise UserError(f"{name} wrote to the store just now, so something is at work on it; try again in two minutes")
    if rayjob is not None and state.phase is Phase.paused and not resized:
        cluster.patch(name, {"spec": {"suspend": False}})
    else:
        manifest = _rendered(place, name, gpus, workers) if resized or rayjob is None else again(rayjob)
        if rayjob is not None:
            _delete_and_wait(cluster, rayjob)
        cluster.create(manifest)
    queued = rayjob is not None and QUEUE_LABEL in (rayjob["metadata"].get("labels") or {})
    typer.echo(f"{name} {'is in the queue again' if queued else 'goes on'}: {command('status', name, '--watch')}")


def delete(
    run: RunArgument,
    *,
    store: StoreOption = None,
    endpoint_url: EndpointOption = None,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    results: Annotated[
        bool, typer.Option("--results", help="Remove the run from the store too; `gc` then finds its artifacts.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a run's RayJob, and with --results what it left in the store. A run at work is ended."""
    from teddy_ray.report.text import count

    place = find(store, endpoint_url, context, namespace)
    name = place.find(run)
    rayjob = place.cluster.get(name) if place.cluster else None
    if rayjob is None and not results:
        where = f"no RayJob in {place.cluster.where}" if place.cluster else "only the store's files"
        raise UserError(f"{name} has {where}: {command('delete', name, '--results')} removes it from the store")
    keys = [entry.key for entry in place.store.list(f"runs/{name}/")] if results else []
    if results and rayjob is None and _state(place, name, None).phase == "running":
        raise UserError(f"{name} wrote to the store just now: stop what is at work on it first")
    parts = [
        *(["its RayJob"] if rayjob else []),
        *([f"{count(len(keys), 'file')} in {place.store_name}"] if results else []),
    ]
    if not yes and not typer.confirm(f"delete {name}: {' and '.join(parts)}?", err=True):
        raise typer.Exit(130)
    if rayjob is not None and place.cluster is not None:
        _delete_and_wait(place.cluster, rayjob)
    # The spec is what makes it a run: gone first, so that a run that is half there is not taken for one.
    for key in sorted(keys, key=lambda key: not key.endswith("/spec.json")):
        place.store.delete(key)
    kept = (
        "; `teddy-cloud gc` removes the artifacts that no other run needs"
        if results
        else "; what it left in the store is kept"
    )
    typer.echo(f"{name} is deleted: {' and '.join(parts)}{kept}")


def again(rayjob: dict[str, Any]) -> dict[str, Any]:
    """The manifest that made a RayJob, of the object as the cluster has it now."""
    meta, spec = rayjob["metadata"], dict(rayjob["spec"])
    spec.pop("suspend", None)
    spec.pop("jobId", None)  # Ray knows that one as ended
    ours = {key: value for key, value in (meta.get("annotations") or {}).items() if key.startswith("teddy-cloud/")}
    return {
        "apiVersion": rayjob.get("apiVersion", "ray.io/v1"),
        "kind": "RayJob",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": dict(meta.get("labels") or {}),
            "annotations": ours,
        },
        "spec": spec,
    }


def of_cluster(context: str | None, namespace: str | None) -> Place:
    """The cluster of the flags, the config file or the kubeconfig, whatever stores lie around; NoClusterError."""
    from teddy_cloud.config import load
    from teddy_cloud.stores import Place, find_cluster

    config = load()
    return Place(find_cluster(context, namespace), config.store, config.endpoint_url)


def _found(place: Place, run: str) -> tuple[Cluster, str]:
    assert place.cluster is not None
    return place.cluster, place.find(run)


def _state(place: Place, run: str, rayjob: dict[str, Any] | None) -> RunState:
    from teddy_cloud.cluster.state import StoreWord, state_of
    from teddy_ray.pipeline import runs

    store, _ = place.readable()
    known = store is not None and store.head(f"runs/{run}/spec.json") is not None
    word = runs.status(store, run) if store is not None and known else None
    return state_of(rayjob, StoreWord(word.state, word.message) if word else None)


def _stop(cluster: Cluster, rayjob: dict[str, Any]) -> None:
    """Ask Ray to end the driver, which hears SIGTERM and says so in the store; until KubeRay has noticed."""
    from teddy_cloud.cluster import forward

    name, status = rayjob["metadata"]["name"], rayjob["status"]
    head = head_pod(rayjob)
    if head is None:
        raise WorldError(
            f"{name} has no head pod just now: try again, or end it with {command('cancel', name, '--now')}"
        )
    headers = {"Authorization": f"Bearer {cluster.token()}"}
    path = f"/api/jobs/{status['jobId']}/stop"
    code, said = forward.request(cluster, head, DASHBOARD_PORT, method="POST", path=path, headers=headers)
    if code != 200:
        raise WorldError(
            f"Ray would not stop {name} (it answered {code}: {said.decode(errors='replace')[:200]}): end it with"
            f" {command('cancel', name, '--now')}"
        )
    typer.echo(f"{name} has been told to stop …", err=True)
    _until(
        lambda: (
            ((cluster.get(name) or {}).get("status") or {}).get("jobDeploymentStatus") in (None, "Complete", "Failed")
        ),
        STOP_SECONDS,
        f"{name} has been told to stop, but has not ended yet: see {command('status', name)}, or cancel it with --now",
    )


def head_pod(rayjob: dict[str, Any]) -> str | None:
    """The name of the head's pod, as KubeRay has noted it."""
    head = ((rayjob.get("status") or {}).get("rayClusterStatus") or {}).get("head") or {}
    return head.get("podName") or None


def _delete_and_wait(cluster: Cluster, rayjob: dict[str, Any]) -> None:
    name, uid = rayjob["metadata"]["name"], rayjob["metadata"]["uid"]
    cluster.delete(name)
    _until(
        lambda: ((cluster.get(name) or {}).get("metadata") or {}).get("uid") != uid,
        GONE_SECONDS,
        f"{name} is being deleted, which takes long: see kubectl describe rayjob {name}, then run this again",
    )


def _until(done: Callable[[], bool], seconds: float, otherwise: str) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise WorldError(otherwise)
        time.sleep(POLL_SECONDS)


def _rendered(place: Place, run: str, gpus: int | None, workers: int | None) -> dict[str, Any]:
    """The RayJob of a run that the store alone remembers, from its spec and the namespace's settings."""
    from teddy_cloud.cluster.render import Job, render
    from teddy_ray.spec import Spec

    assert place.cluster is not None
    spec = Spec.from_json(place.store.get(f"runs/{run}/spec.json"))
    if gpus is None and workers is None:
        raise UserError(
            f"{run} has no RayJob any more that says how it ran: give --gpus N, or --workers N for CPUs (it had"
            f" {spec.compute.workers} slots)"
        )
    job = Job(
        run=run, namespace=place.cluster.namespace, spec=spec, gpus=gpus or 0, workers=0 if gpus else workers or 0
    )
    return dict(render(job, place.settings))


def _again(place: Place, run: str) -> str:
    store, _ = place.readable()
    begun = store is not None and store.head(f"runs/{run}/spec.json") is not None
    return f"; go on with: {command('resume', run)}" if begun else ", which was nothing yet; submit it anew"
