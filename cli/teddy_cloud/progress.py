"""Shows a run while it works, on standard error: live rows on a terminal, plain lines of text elsewhere.

with Progress() as progress:
    driver.run(spec, store, emit=progress)

12:34:56 distill 3/10 units, loss 3.21 (statistics 2.10, class 1.11), 120 images/s, 1m20s left
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from teddy_ray.pipeline.events import Event
from teddy_ray.pipeline.progress import StageProgress, Stages
from teddy_ray.report.text import count, listed, printable

LINE_SECONDS = 10.0
"""A log gets at most one progress line in this time."""

TASKS = {
    "data": "dataset",
    "base": "model",
    "pool": "member",
    "distill": "unit",
    "relabel": "shard",
    "evaluate": "student",
    "report": "page",
}


def outcome(stage: StageProgress) -> str:
    """How the stage ended, or would end: empty while there is work."""
    if stage.reused == stage.total:
        return "reused" if stage.total else "nothing to do"
    return "" if stage.seconds is None else duration(stage.seconds)


def tasks(stage: StageProgress) -> str:
    """``10 units``."""
    return count(stage.total, TASKS[stage.name])


def describe(numbers: Mapping[str, float]) -> str:
    """``loss 3.21 (statistics 2.10, class 1.11), 120 images/s``, of the numbers that are there."""
    parts = []
    if "loss" in numbers:
        terms = ", ".join(f"{name} {_number(numbers[name])}" for name in ("statistics", "class") if name in numbers)
        parts.append(f"loss {_number(numbers['loss'])}" + (f" ({terms})" if terms else ""))
    if "accuracy" in numbers:
        parts.append(f"accuracy {numbers['accuracy']:.1f} %")
    if "images_per_second" in numbers:
        parts.append(f"{numbers['images_per_second']:,.0f} images/s")
    return ", ".join(parts)


def _number(value: float) -> str:
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1e6 else f"{value:.1e}"


def duration(seconds: float) -> str:
    """``9s``, ``1m20s``, ``2h05m``, ``3d04h``."""
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if round(seconds) >= size:
            whole, rest = divmod(round(seconds), size)
            return f"{whole}{unit}{rest // smaller:02d}{smaller_unit}"
    return f"{seconds:.0f}s"


class View(Protocol):
    """What shows the stages."""

    def open(self) -> None: ...
    def started(self, stage: StageProgress) -> None: ...
    def advanced(self, stage: StageProgress) -> None: ...
    def ended(self, stage: StageProgress) -> None: ...
    def note(self, event: Event) -> None: ...
    def close(self) -> None: ...


class Progress:
    """Takes a run's events, from any thread, and shows them while it is entered."""

    def __init__(self, view: View | None = None) -> None:
        live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._view = view or (Rows() if live else Lines())
        self._stages = Stages()
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        self._view.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._view.close()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._take(event)

    def _take(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "note":
            self._view.note(event)
        announced = event["stage"] in self._stages
        stage = self._stages.take(event)
        if stage is None:
            return
        if kind == "stage_started" or not announced:
            self._view.started(stage)
        if kind == "stage_done":
            self._view.ended(stage)
        elif kind != "stage_started":
            self._view.advanced(stage)

    def kept(self, store: str) -> str:
        """What an interrupted run leaves: ``base, pool and 3 of 7 units are kept in teddy-store; go on with``."""
        stages = list(self._stages.values())
        parts = [stage.name for stage in stages if stage.seconds is not None]
        parts += [f"{stage.done} of {tasks(stage)}" for stage in stages if stage.seconds is None and stage.done]
        if not parts:
            return "nothing is finished yet; start again with"
        return f"{listed(parts)} {'is' if parts == [stages[0].name] else 'are'} kept in {store}; go on with"


class Lines:
    """The view for a log: a line when a stage starts and ends, and at times how far it is."""

    def __init__(self) -> None:
        self._last = 0.0

    def open(self) -> None: ...
    def close(self) -> None: ...

    def started(self, stage: StageProgress) -> None:
        reused = f", {stage.reused} of them reused" if stage.reused else ""
        self._print(stage.now, f"{stage.name} {outcome(stage) or f'started: {tasks(stage)}{reused}'}")

    def advanced(self, stage: StageProgress) -> None:
        if stage.now - self._last < LINE_SECONDS:
            return
        left = stage.left()
        how_far = f"{stage.done}/{tasks(stage)}" if stage.total > 1 else f"{stage.share:.0%}"
        parts = (how_far, describe(stage.numbers), "" if left is None else f"{duration(left)} left")
        self._print(stage.now, f"{stage.name} {', '.join(part for part in parts if part)}")

    def ended(self, stage: StageProgress) -> None:
        if stage.reused < stage.total:
            self._print(stage.now, f"{stage.name} done in {outcome(stage)}")

    def note(self, event: Event) -> None:
        self._print(event["time"], f"{event['stage']}: {printable(event['message'])}")

    def _print(self, moment: float, text: str) -> None:
        self._last = moment
        typer.echo(f"{time.strftime('%H:%M:%S', time.localtime(moment))} {text}", err=True)


class Rows:
    """The view for a terminal: a row a stage, and under the running one what it measures."""

    def __init__(self) -> None:
        self._rows = _StageRows(
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[count]}"),
            _Clock(),
            console=Console(stderr=True),
        )
        self._ids: dict[str, TaskID] = {}

    def open(self) -> None:
        self._rows.start()

    def close(self) -> None:
        self._rows.detail = ""
        self._rows.stop()

    def started(self, stage: StageProgress) -> None:
        self._ids[stage.name] = self._rows.add_task(stage.name, total=1.0, **_row(stage))

    def advanced(self, stage: StageProgress) -> None:
        self._rows.detail = describe(stage.numbers)
        self._rows.update(self._ids[stage.name], **_row(stage))

    def ended(self, stage: StageProgress) -> None:
        self._rows.detail = ""
        self._rows.update(self._ids[stage.name], **_row(stage))

    def note(self, event: Event) -> None:
        self._rows.console.print(Text(f"{event['stage']}: {event['message']}"))


class _StageRows(RichProgress):
    """Rich's rows, and one line below them."""

    detail = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.detail:
            yield Text(f"  {self.detail}", style="dim", no_wrap=True, overflow="ellipsis")


class _Clock(ProgressColumn):
    """Time so far and time left, ticking between events; or how the stage ended."""

    def render(self, task: Task) -> Text:
        if task.fields["outcome"]:
            return Text(task.fields["outcome"], style="green")
        now, ends = time.time(), task.fields["ends"]
        left = "" if ends is None else f", {duration(max(0.0, ends - now))} left"
        return Text(duration(now - task.fields["started"]) + left, style="cyan")


def _row(stage: StageProgress) -> dict[str, Any]:
    """A row's fields: copies, since Rich draws from a thread of its own."""
    left = stage.left()
    return {
        "completed": stage.share,
        "count": f"{stage.done}/{tasks(stage)}",
        "started": stage.started,
        "ends": None if left is None else stage.now + left,
        "outcome": outcome(stage),
    }
