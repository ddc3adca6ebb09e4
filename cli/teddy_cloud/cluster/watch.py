"""A look at a run from both sides, the cluster's and the store's, once or until it ends.

    look(cluster, store, run).state.phase
    sys.exit(wait(cluster, run))         # follows the run; says on standard error what changes

The store may be out of the user's reach: then the cluster's word is all there is, and a look says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teddy_cloud.cluster import diagnosis
from teddy_cloud.cluster.api import ForbiddenError, NotInstalledError
from teddy_cloud.cluster.diagnosis import Situation
from teddy_cloud.cluster.state import QUEUE_LABEL, Phase, RunState, StoreWord, state_of
from teddy_ray.errors import UserError, WorldError

if TYPE_CHECKING:
    from teddy_cloud.cluster.api import Cluster
    from teddy_ray.pipeline.events import Event
    from teddy_ray.pipeline.runs import RunStatus
    from teddy_ray.store import Store

WATCH_SECONDS = 5.0
PATIENCE_SECONDS = 300.0
"""How long a cluster may be out of reach before somebody who waits for a run is told."""

Told = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a run fares. ``work`` is the store's word, None before it has one; ``trouble`` why the store was not read."""

    run: str
    state: RunState
    work: RunStatus | None
    workers: tuple[int, int] | None
    restarts: int
    why: list[str]
    trouble: str


def look(
    cluster: Cluster, store: Store | None, run: str, *, trouble: str = "", known: dict[str, list[Event]] | None = None
) -> Look:
    """The run as it is now. Who asks again hands in the same ``known``, as for teddy_ray.pipeline.runs.status."""
    found = situation(cluster, run)
    work = None
    try:
        work = None if store is None else _work(store, run, known)
    except (UserError, WorldError) as error:
        trouble = str(error)
    word = StoreWord(work.state, work.message) if work else None
    state = state_of(found.rayjob, word)
    silent = (Phase.finished, Phase.cancelled, Phase.stopped, Phase.paused)
    return Look(
        run=run,
        state=state,
        work=work,
        workers=diagnosis.workers(found),
        restarts=diagnosis.restarts(found),
        why=[] if state.phase in silent else diagnosis.diagnose(found, now=time.time()),
        trouble=trouble,
    )


def situation(cluster: Cluster, run: str) -> Situation:
    """A run's objects in the cluster."""
    rayjob = cluster.get(run)
    if rayjob is None:
        return Situation(rayjob=None)
    name = (rayjob.get("status") or {}).get("rayClusterName") or ""
    return Situation(
        rayjob=rayjob,
        raycluster=cluster.raycluster(name),
        pods=cluster.pods(run),
        events=cluster.events(run),
        workload=_workload(cluster, rayjob),
    )


def wait(cluster: Cluster, run: str, *, store: Store | None = None, told: Told | None = None) -> int:
    """Follow a run to its end, say what changes, and return its exit code (see cluster.state.Phase.exit_code).

    Without ``store`` the namespace's is used, where this machine reaches it. A cluster that is out of reach for a while
    is waited for; Ctrl-C leaves the run alone.
    """
    from teddy_cloud.stores import Place

    tell, trouble = told or _print, ""
    if store is None:
        store, trouble = Place(cluster, None, None).readable()
        if trouble:
            tell(f"the store cannot be read from here, so the cluster's word counts: {trouble}")
    said: tuple[str, ...] = ()
    reached = time.monotonic()
    while True:
        try:
            seen = look(cluster, store, run, trouble=trouble)
        except WorldError:
            if time.monotonic() - reached > PATIENCE_SECONDS:
                raise
        else:
            reached = time.monotonic()
            lines = told_lines(seen)
            for line in lines:
                if line not in said:
                    tell(line)
            said = tuple(lines)
            if (code := seen.state.phase.exit_code) is not None:
                return code
        time.sleep(WATCH_SECONDS)


def told_lines(seen: Look) -> list[str]:
    """A look as lines, of which somebody who follows is told the new ones."""
    state = seen.state
    attempt = f", attempt {state.attempt} of {state.attempts}" if state.attempt > 1 else ""
    stage = _stage(seen.work) if state.phase is Phase.running else ""
    return [f"{seen.run}: {state.phase}{attempt}{stage}", *state.notes, *seen.why, *told_message(seen)]


def told_message(seen: Look) -> list[str]:
    """Why a run failed: in its own words, which say more than the cluster's, unless it had no time for any."""
    if seen.state.phase not in (Phase.failed, Phase.unreadable):
        return []
    own = seen.work.message if seen.work else ""
    return (own or ("" if seen.why else seen.state.message)).splitlines()


def _stage(work: RunStatus | None) -> str:
    begun = [stage for stage in work.stages if stage.total is not None and stage.seconds is None] if work else []
    return f", {begun[-1].stage}" if begun else ""


def _work(store: Store, run: str, known: dict[str, list[Event]] | None) -> RunStatus | None:
    from teddy_ray.pipeline import runs

    return runs.status(store, run, known=known) if store.head(f"runs/{run}/spec.json") else None


def _workload(cluster: Cluster, rayjob: dict[str, Any]) -> dict[str, Any] | None:
    """Kueue's object for a run in a queue; None where there is none, or it is not for this user to see."""
    meta = rayjob["metadata"]
    if QUEUE_LABEL not in (meta.get("labels") or {}):
        return None
    try:
        group = cluster.request("GET", "/apis/kueue.x-k8s.io", doing="find Kueue")
        path = cluster.group(group["preferredVersion"]["groupVersion"], "workloads")
        uid = meta.get("uid", "")
        found = cluster.items(path, doing="list workloads", labelSelector=f"kueue.x-k8s.io/job-uid={uid}")
        return next(iter(found), None)
    except (ForbiddenError, NotInstalledError):
        return None


def _print(line: str) -> None:
    import typer

    from teddy_ray.report.text import printable

    typer.echo(printable(line), err=True)
