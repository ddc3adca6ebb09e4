"""``teddy-cloud status``: how far a run is, from its store alone, be the machine that runs it there or not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from teddy_cloud.stores import DEFAULT_STORE, EndpointOption, JsonOption, RunArgument, StoreOption, opened

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from teddy_ray.pipeline.events import Event
    from teddy_ray.pipeline.runs import RunStatus, StageStatus
    from teddy_ray.store import Store

WATCH_SECONDS = 5.0
"""As often as a run writes what it has to say."""


def status(
    run: RunArgument,
    *,
    store: StoreOption = DEFAULT_STORE,
    endpoint_url: EndpointOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until it ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far a run is: its stages, their tasks, the time left.

    A run that wrote nothing for a while counts as stopped; the same `run` command goes on with it.
    """
    from teddy_cloud.screen import console
    from teddy_ray.pipeline import runs

    place = opened(store, endpoint_url)
    found = _looks(place, runs.find(place, run), watch=watch)
    if as_json:
        for look in found:
            typer.echo(json.dumps(asdict(look)))
    elif not watch or not console().is_terminal:
        for look in found:
            console().print(_page(look))
    else:
        _show_live(found)


def _looks(store: Store, run: str, *, watch: bool) -> Iterator[RunStatus]:
    """The run as it is now and, while it is at work, again and again."""
    from teddy_ray.pipeline import runs

    known: dict[str, list[Event]] = {}
    while True:
        found = runs.status(store, run, known=known)
        yield found
        if not watch or found.state != "running":
            return
        time.sleep(WATCH_SECONDS)


def _show_live(found: Iterator[RunStatus]) -> None:
    from rich.live import Live

    from teddy_cloud.screen import console

    with Live(console=console(), auto_refresh=False) as live:
        for look in found:
            live.update(_page(look), refresh=True)


def _page(found: RunStatus) -> Group:
    from rich.console import Group
    from rich.text import Text

    from teddy_cloud.progress import duration
    from teddy_cloud.screen import STATE_STYLES
    from teddy_ray.report.text import printable

    now = time.time()
    ages = f"began {duration(now - found.began)} ago, last wrote {duration(now - found.updated)} ago"
    attempt = f"attempt {len(found.attempts)}, " if len(found.attempts) > 1 else ""
    head = Text.assemble(
        (found.run, "bold"), "  ", (found.state, STATE_STYLES[found.state]), f"\n{found.recipe}, "
        f"{printable(found.dataset)}, IPC {found.ipc}; {attempt}{ages}",
    )  # fmt: skip
    why = [Text(printable(line)) for line in found.message.splitlines()]
    return Group(head, _stage_table(found.stages), *why)


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
