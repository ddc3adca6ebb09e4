"""``teddy-cloud pull``: a finished run's images, labels, report and pool, verified, in a folder.

    teddy-cloud pull digits-ipc1 ./out --store s3://bucket/runs --only images --only labels

What has come is kept: after a stop the same command goes on in the middle of a file, and when all is there it
transfers nothing.
"""

from __future__ import annotations

import shlex
import sys
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from teddy_cloud.stores import ContextOption, EndpointOption, NamespaceOption, RunArgument, StoreOption, find

if TYPE_CHECKING:
    from teddy_ray.pipeline.pull import Pulled

LINE_SECONDS = 10.0


class Group(StrEnum):
    """What can be pulled alone."""

    images = "images"
    labels = "labels"
    report = "report"
    pool = "pool"


def pull(
    run: RunArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to put it into.")],
    *,
    store: StoreOption = None,
    endpoint_url: EndpointOption = None,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    only: Annotated[list[Group] | None, typer.Option("--only", help="Just this part; repeatable.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read again what an earlier pull has verified.")] = False,
) -> None:
    """Bring a finished run to a folder, every file verified against the run's manifest.

    A file whose bytes are not what the run wrote is named, and the exit code is 1.
    """
    from teddy_ray.pipeline import runs
    from teddy_ray.pipeline.pull import pull as carry_out

    place = find(store, endpoint_url, context, namespace).store
    name = runs.find(place, run)
    meter = Meter()
    try:
        with meter:
            pulled = carry_out(place, name, out, only=[str(group) for group in only or []], verify=verify, told=meter)
    except KeyboardInterrupt:
        typer.echo(
            f"stopped: what has come is kept; go on with: {shlex.join(['teddy-cloud', *sys.argv[1:]])}", err=True
        )
        raise typer.Exit(130) from None
    _print(pulled, name, out)


def _print(pulled: Pulled, run: str, out: Path) -> None:
    from teddy_ray.report.text import count, printable, size

    for name in pulled.replaced:
        typer.echo(f"{printable(str(out / name))} was not what the run wrote: replaced", err=True)
    here = count(len(pulled.fetched) + len(pulled.kept), "file")
    came = f"{count(len(pulled.fetched), 'file')} fetched, {size(pulled.transferred)}"
    typer.echo(f"{run} is in {printable(str(out))}: {here}, {came if pulled.fetched else 'all of them there before'}")


class Meter:
    """Shows how much has come, on standard error: a bar on a terminal, a line at times elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        self._here: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._last = time.monotonic()
        console = Console(stderr=True)
        self._live = console.is_terminal
        columns = (BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not self._live)
        self._task = self._bar.add_task("")

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, name: str, here: int, size: int) -> None:
        """Take note of ``here`` of a file's ``size`` bytes; any thread may."""
        from teddy_ray.report import text

        with self._lock:
            self._here[name] = here, size
            come, total = (sum(numbers) for numbers in zip(*self._here.values(), strict=True))
            self._bar.update(self._task, completed=come, total=total)
            if not self._live and time.monotonic() - self._last >= LINE_SECONDS:
                self._last = time.monotonic()
                typer.echo(f"{text.size(come)} of {text.size(total)}", err=True)
