"""``teddy-cloud compare``: runs side by side, by what differs in their specs and by what they scored."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teddy_cloud.stores import ContextOption, EndpointOption, JsonOption, NamespaceOption, StoreOption, find
from teddy_ray.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from teddy_ray.pipeline.comparison import Comparison

NAMES = string.ascii_uppercase


def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="Two or more runs, or beginnings of names.")],
    *,
    store: StoreOption = None,
    endpoint_url: EndpointOption = None,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where runs' specs differ, and their scores side by side."""
    from teddy_ray.pipeline import runs
    from teddy_ray.pipeline.comparison import compare as side_by_side

    place = find(store, endpoint_url, context, namespace).store
    found = list(dict.fromkeys(runs.find(place, name) for name in names))
    if not 2 <= len(found) <= len(NAMES):
        raise UserError(f"compare needs two to {len(NAMES)} different runs, and {', '.join(names)} names {len(found)}")
    compared = side_by_side(place, found)
    if as_json:
        typer.echo(json.dumps(asdict(compared)))
    else:
        _print(compared)


def _print(compared: Comparison) -> None:
    from rich.text import Text

    from teddy_cloud.screen import console

    screen = console()
    for letter, run, finished in zip(NAMES, compared.runs, compared.finished, strict=False):
        screen.print(Text(f"{letter}  {run}{'' if finished else '  (not finished)'}"))
    if compared.settings:
        rows = [(name, *map(_value, values)) for name, values in compared.settings.items()]
        screen.print(_table("Settings that differ", ["Setting"], rows, compared))
    else:
        screen.print(Text("\nTheir specs are the same."))
    if compared.scores:
        screen.print(_table("% of the real test set", ["Student", "Labels", "Trained on"], _scores(compared), compared))


def _scores(compared: Comparison) -> list[tuple[str, ...]]:
    from teddy_cloud.screen import points

    return [
        (
            line.student,
            line.regime,
            line.set,
            *(points(score.accuracy, score.spread) if score else "" for score in line.scores),
        )
        for line in compared.scores
    ]


def _value(value: Any) -> str:
    """A setting as it is typed; what is absent is unset."""
    return "(unset)" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]], compared: Comparison) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from teddy_ray.report.text import printable

    table = Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in names:
        table.add_column(name)
    for letter in NAMES[: len(compared.runs)]:
        table.add_column(letter, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
