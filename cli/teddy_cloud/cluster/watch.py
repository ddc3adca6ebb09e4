"""A look at a run from both sides, the cluster's and the store's, once or until it ends.

    look(cluster, store, run).state.phase
    wait(place, run).phase.exit_code     # follows the run; says on standard error what changes, and why it waits

The store may be out of the user's reach: then the cluster's word is all there is, and a look says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from teddy_cloud.cluster import diagnosis
from teddy_cloud.cluster.api import ForbiddenError, NotInstalledError
from teddy_cloud.cluster.diagnosis import Situation
from teddy_cloud.cluster.state import QUEUE_LABEL, Phase, RunState, StoreWord, state_of
from teddy_cloud.hints import command
from teddy_ray.errors import UserError, WorldError

if TYPE_CHECKING:
    from teddy_cloud.cluster.api import Cluster
    from teddy_cloud.stores import Place
    from teddy_ray.pipeline.events import Event
    from teddy_ray.pipeline.runs import RunStatus
    from teddy_ray.store import Store

WATCH_SECONDS = 5.0
PATIENCE_SECONDS = 600.0
"""How long a cluster may be out of reach before waiting for a run gives up; the run itself does not need us."""

Told = Callable[[str], None]
Answer = TypeVar("Answer")


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


def wait(place: Place, run: str, *, told: Told | None = None) -> RunState:
    """Follow a run to its end, saying what changes and why it waits; the state in which it ended.

    A cluster that is out of reach for a while is waited for, and WorldError says that it stays so. Ctrl-C ends the
    waiting alone, with exit code 130.
    """
    tell = told or _print
    try:
        return _followed(place, run, tell)
    except KeyboardInterrupt:
        tell(f"no longer waiting; {run} goes on: {command('status', run)}")
        raise typer.Exit(130) from None


def _followed(place: Place, run: str, tell: Told) -> RunState:
    assert place.cluster is not None
    store, trouble = place.readable()
    said: list[str] = []
    patience = Patience()
    while True:
        seen = patience.ask(partial(look, place.cluster, store, run, trouble=trouble))
        lines = [told_error(seen)] if isinstance(seen, WorldError) else told_lines(seen)
        for line in lines:
            if line not in said:
                tell(line)
        said = lines
        if not isinstance(seen, WorldError) and seen.state.phase.is_terminal:
            if store is not None or seen.state.phase is Phase.finished:
                return seen.state
            # Its manifest would be the last word, so a store that was away hours ago is asked once more.
            store, trouble = place.readable()
            if store is None:
                return seen.state
        else:
            time.sleep(WATCH_SECONDS)


class Patience:
    """Bears an answer that fails to come for a while: a cluster's API, or a store, may be away and come back."""

    def __init__(self) -> None:
        self._reached = time.monotonic()

    def ask(self, question: Callable[[], Answer]) -> Answer | WorldError:
        """The answer, or what kept it away; raises that when it has done so for long."""
        try:
            answer = question()
        except WorldError as error:
            if time.monotonic() - self._reached > PATIENCE_SECONDS:
                raise
            return error
        self._reached = time.monotonic()
        return answer


def told_error(error: WorldError) -> str:
    """What somebody who waits is told of an answer that has not come."""
    return f"still waiting: {error}"


def told_lines(seen: Look) -> list[str]:
    """A look as lines, of which somebody who follows is told the new ones."""
    state = seen.state
    attempt = f", attempt {state.attempt} of {state.attempts}" if state.attempt > 1 else ""
    stage = _stage(seen.work) if state.phase is Phase.running else ""
    head = f"{seen.run}: {state.phase}{attempt}{stage}"
    return [head, *state.notes, *seen.why, *told_message(seen), *told_trouble(seen)]


def told_message(seen: Look) -> list[str]:
    """Why a run failed: in its own words, which say more than the cluster's, unless it had no time for any."""
    if seen.state.phase not in (Phase.failed, Phase.unreadable):
        return []
    own = seen.work.message if seen.work else ""
    return (own or ("" if seen.why else seen.state.message)).splitlines()


def told_trouble(seen: Look) -> list[str]:
    """That the store was not heard, and why."""
    return [f"the store cannot be read from here, so the cluster's word counts: {seen.trouble}"] if seen.trouble else []


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
    from teddy_ray.report.text import printable

    typer.echo(f"{time.strftime('%H:%M:%S')} {printable(line)}", err=True)
