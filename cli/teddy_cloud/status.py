"""``teddy-cloud status``: how far a run is, from its store, and on a cluster from its RayJob and pods too.

teddy-cloud status digits-ipc10 --watch
teddy-cloud status digits-ipc10 --json | jq -r .state
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teddy_cloud.hints import command
from teddy_cloud.stores import (
    ContextOption,
    EndpointOption,
    JsonOption,
    NamespaceOption,
    RunArgument,
    StoreOption,
    find,
)
from teddy_ray.errors import WorldError

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    from teddy_cloud.cluster.watch import Look
    from teddy_cloud.stores import Place
    from teddy_ray.pipeline.events import Event
    from teddy_ray.pipeline.runs import RunStatus, StageStatus

WATCH_SECONDS = 5.0
"""As often as a run writes what it has to say."""


def status(
    run: RunArgument,
    *,
    store: StoreOption = None,
    endpoint_url: EndpointOption = None,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until it ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far a run is: its stages, their tasks, the time left; on a cluster its workers, and why it waits.

    A run that wrote nothing for a while counts as stopped; the same `run` command, or `resume`, goes on with it.
    """
    from teddy_cloud.cluster.watch import told_error
    from teddy_cloud.screen import console

    place = find(store, endpoint_url, context, namespace)
    looks = _looks(place, place.find(run))
    found = _until_the_end(looks) if watch else [looks()]
    if not as_json and watch and console().is_terminal:
        _show_live(found)
        return
    for seen in found:
        if isinstance(seen, WorldError):
            typer.echo(told_error(seen), err=True)
        elif as_json:
            typer.echo(json.dumps(_json(seen)))
        else:
            console().print(_page(seen))


def _looks(place: Place, run: str) -> Callable[[], RunStatus | Look]:
    """What the run is like at the moment, whenever it is asked."""
    from teddy_cloud.cluster.watch import look
    from teddy_ray.pipeline import runs

    known: dict[str, list[Event]] = {}
    store, trouble = place.readable()
    if place.cluster is None:
        return partial(runs.status, place.store, run, known=known)
    return partial(look, place.cluster, store, run, trouble=trouble, known=known)


def _until_the_end(looks: Callable[[], RunStatus | Look]) -> Iterator[RunStatus | Look | WorldError]:
    """The run again and again until it ends, or what keeps it from being seen, which may pass."""
    from teddy_cloud.cluster.watch import Patience

    patience = Patience()
    while True:
        seen = patience.ask(looks)
        yield seen
        if not isinstance(seen, WorldError) and _has_ended(seen):
            return
        time.sleep(WATCH_SECONDS)


def _has_ended(seen: RunStatus | Look) -> bool:
    from teddy_ray.pipeline.runs import RunStatus

    return seen.state != "running" if isinstance(seen, RunStatus) else seen.state.phase.is_terminal


def _json(look: RunStatus | Look) -> dict[str, Any]:
    """The store's account, and beside it the cluster's; ``state`` is what both come to."""
    from teddy_ray.pipeline.runs import RunStatus

    if isinstance(look, RunStatus):
        return asdict(look)
    state = look.state
    cluster = {
        "reason": state.reason,
        "message": state.message,
        "attempt": state.attempt,
        "attempts": state.attempts,
        "workers": dict(zip(("ready", "desired"), look.workers, strict=True)) if look.workers else None,
        "restarts": look.restarts,
        "why": look.why,
        "notes": list(state.notes),
        "store": look.trouble,
    }
    work = asdict(look.work) if look.work else {"run": look.run, "message": "", "stages": []}
    return {**work, "state": str(state.phase), "cluster": cluster}


def _show_live(found: Iterable[RunStatus | Look | WorldError]) -> None:
    from rich.console import Group
    from rich.live import Live

    from teddy_cloud.cluster.watch import told_error
    from teddy_cloud.screen import console

    page = Group()
    with Live(console=console(), auto_refresh=False) as live:
        for seen in found:
            if isinstance(seen, WorldError):
                live.update(Group(page, *_lines(told_error(seen))), refresh=True)
            else:
                page = _page(seen)
                live.update(page, refresh=True)


def _page(look: RunStatus | Look) -> Group:
    from rich.console import Group

    from teddy_cloud.cluster.watch import told_trouble
    from teddy_ray.pipeline.runs import RunStatus

    if isinstance(look, RunStatus):
        return Group(_head(look.run, look.state, _about(look)), _stage_table(look.stages), *_lines(look.message))
    work, state = look.work, look.state
    about = [_about(work)] if work else []
    head = _head(look.run, str(state.phase), "\n".join([*about, _machines(look)]).strip())
    parts: list[RenderableType] = [head, *([_stage_table(work.stages)] if work else [])]
    for sentence in (*state.notes, *look.why, *_ending(look), *told_trouble(look)):
        parts += _lines(sentence)
    return Group(*parts)


def _head(run: str, state: str, about: str) -> Text:
    from rich.text import Text

    from teddy_cloud.screen import STATE_STYLES

    return Text.assemble((run, "bold"), "  ", (state, STATE_STYLES[state]), f"\n{about}" if about else "")


def _about(found: RunStatus) -> str:
    """``teddy, digits, IPC 10; attempt 2, began 5m ago, last wrote 3s ago``."""
    from teddy_cloud.progress import duration
    from teddy_ray.report.text import printable

    now = time.time()
    ages = f"began {duration(now - found.began)} ago, last wrote {duration(now - found.updated)} ago"
    attempt = f"attempt {len(found.attempts)}, " if len(found.attempts) > 1 else ""
    return f"{found.recipe}, {printable(found.dataset)}, IPC {found.ipc}; {attempt}{ages}"


def _machines(look: Look) -> str:
    """``2 of 4 workers; cluster 2 of 4; 3 container restarts``."""
    from teddy_ray.report.text import count

    at_work = look.workers is not None and not look.state.phase.is_terminal
    parts = [f"{look.workers[0]} of {count(look.workers[1], 'worker')} ready"] if at_work and look.workers else []
    if look.state.attempt > 1:
        parts.append(f"Ray cluster {look.state.attempt} of at most {look.state.attempts}")
    if look.restarts:
        parts.append(count(look.restarts, "container restart"))
    return "; ".join(parts)


def _ending(look: Look) -> list[str]:
    """Why a run ended, in the run's own words if it left any, and how to go on with one that can."""
    from teddy_cloud.cluster.state import Phase
    from teddy_cloud.cluster.watch import told_message

    on = look.state.phase in (Phase.paused, Phase.cancelled, Phase.stopped, Phase.failed)
    return [*told_message(look), *([f"go on with: {command('resume', look.run)}"] if on else [])]


def _lines(text: str) -> list[RenderableType]:
    from rich.text import Text

    from teddy_ray.report.text import printable

    return [Text(printable(line)) for line in text.splitlines()]


def _stage_table(stages: list[StageStatus]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from teddy_cloud.progress import describe

    table = Table(box=box.SIMPLE_HEAD)
    for name, justify in (("Stage", "left"), ("Tasks", "right"), ("Done", "right"), ("Time", "left"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for stage in stages:
        tasks = "" if stage.total is None else f"{stage.done:,}/{stage.total:,}"
        share = "" if stage.total is None else f"{stage.share:.0%}"
        numbers = "" if stage.seconds is not None else describe(stage.numbers)
        table.add_row(*map(Text, (stage.stage, tasks, share, _time(stage), numbers)))
    return table


def _time(stage: StageStatus) -> str:
    """What a stage took, or has left."""
    from teddy_cloud.progress import duration

    if stage.total is None:
        return ""
    if stage.reused == stage.total:
        return "reused" if stage.total else "nothing to do"
    if stage.seconds is not None:
        return duration(stage.seconds)
    return "" if stage.left is None else f"{duration(stage.left)} left"
