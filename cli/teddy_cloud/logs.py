"""``teddy-cloud logs``: what a run has said, attempt by attempt, as lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from teddy_cloud.stores import DEFAULT_STORE, EndpointOption, RunArgument, StoreOption, opened

if TYPE_CHECKING:
    from teddy_ray.pipeline.events import Event


def logs(run: RunArgument, *, store: StoreOption = DEFAULT_STORE, endpoint_url: EndpointOption = None) -> None:
    """Print what a run has said so far: its stages, how they went on, and how each attempt ended."""
    from teddy_ray.pipeline import runs

    place = opened(store, endpoint_url)
    for number, said in enumerate(runs.events(place, runs.find(place, run)), start=1):
        # The data are read before there is a run to be attempted, and yet belong to it.
        _line(min(event["time"] for event in said), f"attempt {number}")
        _print(said[1:])


def _print(said: Sequence[Event]) -> None:
    from teddy_cloud.progress import Lines, Progress
    from teddy_ray.report.text import printable

    class Log(Lines):
        """The lines that the run's own terminal showed, with their dates."""

        def _print(self, moment: float, text: str) -> None:
            self._last = moment
            _line(moment, text)

    progress = Progress(Log())
    for event in said:
        progress(event)
        if event["kind"] == "ended":
            for line in event["message"].splitlines():
                _line(event["time"], f"{event['outcome']}: {printable(line)}")


def _line(moment: float, text: str) -> None:
    typer.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(moment))} {text}")
