"""``teddy-cloud logs``: what a run has said, from its pods while they live, from the store afterwards.

    teddy-cloud logs digits-ipc10 -f
    teddy-cloud logs digits-ipc10 --stage distill

The pods have the driver's own words; the store has its events, attempt by attempt, and those of one stage alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from teddy_cloud.hints import command
from teddy_cloud.stores import (
    ContextOption,
    EndpointOption,
    NamespaceOption,
    RunArgument,
    StoreOption,
    find,
)
from teddy_ray.errors import UserError

if TYPE_CHECKING:
    from teddy_cloud.progress import Progress
    from teddy_cloud.stores import Place
    from teddy_ray.pipeline.events import Event
    from teddy_ray.store import Store

FOLLOW_SECONDS = 5.0
"""As often as a run writes what it has to say."""


def logs(
    run: RunArgument,
    *,
    store: StoreOption = None,
    endpoint_url: EndpointOption = None,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    stage: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Only this stage's, from the store: base, pool, distill, ….")
    ] = None,
) -> None:
    """Print what a run has said so far: its stages, how they went on, and how each attempt ended."""
    from teddy_ray.pipeline.events import STAGES

    if stage is not None and stage not in STAGES:
        raise UserError(f"--stage {stage}: a stage is one of {', '.join(STAGES)}")
    place = find(store, endpoint_url, context, namespace)
    name = place.find(run)
    if stage is None and _print_pods(place, name, follow=follow):
        return
    known, trouble = place.readable()
    if known is None:
        raise UserError(f"{name} has no pods any more, and its store cannot be read from here: {trouble}")
    if known.head(f"runs/{name}/spec.json") is None and not follow:
        raise UserError(f"{name} has said nothing yet: see {command('status', name)}")
    _print_store(known, name, stage, follow=follow)


def _print_pods(place: Place, run: str, *, follow: bool) -> bool:
    """The log of the pods that show the driver's; False where there are none, nor are any to be waited for."""
    from teddy_cloud.cluster.driver_log import driver_log
    from teddy_ray.report.text import printable

    if place.cluster is None or place.cluster.get(run) is None:
        return False
    found = False
    for line in driver_log(place.cluster, run, follow=follow, told=lambda text: typer.echo(text, err=True)):
        found = True
        typer.echo(printable(line))
    return found


def _print_store(store: Store, run: str, stage: str | None, *, follow: bool) -> None:
    from teddy_ray.pipeline import runs

    printer, known = _Printer(stage), dict[str, list["Event"]]()
    while True:
        at_work = follow and _is_at_work(store, run)  # asked first, so that the last words are not missed
        printer.print(runs.events(store, run, known=known))
        if not at_work:
            return
        time.sleep(FOLLOW_SECONDS)


def _is_at_work(store: Store, run: str) -> bool:
    from teddy_ray.pipeline import runs

    return store.head(f"runs/{run}/spec.json") is None or runs.status(store, run).state == "running"


class _Printer:
    """Prints the events of attempts that it has not printed yet, as the run's own terminal showed them."""

    def __init__(self, stage: str | None) -> None:
        self.stage = stage
        self._attempts: list[tuple[Progress, int]] = []

    def print(self, attempts: Sequence[Sequence[Event]]) -> None:
        for number, said in enumerate(attempts):
            if number == len(self._attempts):
                # The data are read before there is a run to be attempted, and yet belong to it.
                _line(min(event["time"] for event in said), f"attempt {number + 1}")
                self._attempts.append((_progress(), 1))
            progress, printed = self._attempts[number]
            for event in said[printed:]:
                if event["kind"] == "ended":
                    _print_end(event)
                elif self.stage in (None, event["stage"]):
                    progress(event)
            self._attempts[number] = progress, len(said)


def _progress() -> Progress:
    from teddy_cloud.progress import Lines, Progress

    class Log(Lines):
        """The lines that the run's own terminal showed, with their dates."""

        def _print(self, moment: float, text: str) -> None:
            self._last = moment
            _line(moment, text)

    return Progress(Log())


def _print_end(event: Event) -> None:
    from teddy_ray.report.text import printable

    for line in event["message"].splitlines():
        _line(event["time"], f"{event['outcome']}: {printable(line)}")


def _line(moment: float, text: str) -> None:
    typer.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(moment))} {text}")
