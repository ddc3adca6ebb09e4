"""``teddy-cloud list``: the runs of a store and of a cluster, with the best score of each beside its control."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teddy_cloud.stores import (
    ContextOption,
    EndpointOption,
    JsonOption,
    NamespaceOption,
    StoreOption,
    find,
    moment,
)
from teddy_ray.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from teddy_cloud.stores import Place
    from teddy_ray.pipeline.runs import RunSummary


def list_runs(
    *,
    store: StoreOption = None,
    endpoint_url: EndpointOption = None,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="Only finished, running, … runs; repeatable.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(metavar="SOURCE", help="Only runs on this dataset.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this recipe.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE|DATE", help="Only runs begun since: 12h, 7d, 2026-11-21.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs of a store, or of a cluster and its store, the latest first.

    Best is the highest score of the synthetic images; control, the strongest that real images reach with the same
    labels and student.
    """
    _check_states(state or [])
    begun = None if since is None else moment(since, option="--since")
    place = find(store, endpoint_url, context, namespace)
    found = [
        run
        for run in _runs(place)
        if (not state or run.state in state)
        and (dataset is None or run.dataset == dataset)
        and (recipe is None or run.recipe == recipe)
        and (begun is None or run.began >= begun)
    ]
    if as_json:
        typer.echo(json.dumps([asdict(run) for run in found]))
    elif found:
        _print(found)
    else:
        chosen = any(choice is not None for choice in (state, dataset, recipe, since))
        typer.echo(f"no runs in {place.where}{' like that' if chosen else ''}", err=True)


def _runs(place: Place) -> list[RunSummary]:
    """The store's runs with the cluster's word on them, and the cluster's that the store does not know yet."""
    from teddy_ray.pipeline import runs

    store, trouble = place.readable()
    if trouble:
        typer.echo(f"the store cannot be read from here, so these are the cluster's runs alone: {trouble}", err=True)
    found = {run.run: run for run in (runs.summaries(store) if store else [])}
    for rayjob in place.cluster.list() if place.cluster else []:
        name = rayjob["metadata"]["name"]
        found[name] = _merged(rayjob, found.get(name))
    return sorted(found.values(), key=lambda run: run.began, reverse=True)


def _merged(rayjob: dict[str, Any], known: RunSummary | None) -> RunSummary:
    """A run as both sides see it."""
    from teddy_cloud.cluster.carried import summary_of
    from teddy_cloud.cluster.state import StoreWord, state_of

    state = state_of(rayjob, StoreWord(known.state, known.message) if known else None)
    run = known or summary_of(rayjob)
    why = run.message or (state.message if state.phase.exit_code in (1, 2) else "")
    return replace(run, state=str(state.phase), message="; ".join(filter(None, [*state.notes, why])))


def _check_states(given: Sequence[str]) -> None:
    from teddy_cloud.cluster.state import Phase

    known = [*Phase]
    for state in given:
        if state not in known:
            raise UserError(f"--state {state}: a run is one of {', '.join(known)}")


def _print(found: Sequence[RunSummary]) -> None:
    from rich import box
    from rich.table import Table

    from teddy_cloud.screen import console
    from teddy_ray.report.text import printable

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Run", overflow="fold")  # to be copied from here, so never with an ellipsis
    table.add_column("State", no_wrap=True)
    table.add_column("Best", justify="right", no_wrap=True)
    table.add_column("Control", justify="right", no_wrap=True)
    for run in found:
        table.add_row(*_row(run))
    console().print(table)
    for run in found:
        if run.message:
            typer.echo(f"{printable(run.run)} {run.state}: {printable(run.message.splitlines()[-1])}", err=True)


def _row(run: RunSummary) -> list[Text]:
    """Two lines a run, which fit into 80 columns whatever its name is."""
    from rich.text import Text

    from teddy_cloud.screen import STATE_STYLES, points
    from teddy_ray.report.text import printable

    best = run.best
    control = points(best.control_accuracy, best.control_spread) if best and best.control_accuracy is not None else ""
    return [
        Text.assemble(printable(run.run), "\n", (printable(_about(run)), "dim")),
        Text(run.state, style=STATE_STYLES[run.state]),
        Text(f"{points(best.accuracy, best.spread)}\n{best.regime}" if best else ""),
        Text(f"{control}\n{best.control or 'none'}" if best else ""),
    ]


def _about(run: RunSummary) -> str:
    """``digits, IPC 10, convnet, 1.9 MB, 3h05m ago``."""
    from teddy_cloud.progress import duration
    from teddy_ray.report import text

    parts = [] if run.ipc is None else [run.dataset, f"IPC {run.ipc:,}"]
    if run.best is not None:
        parts.append(run.best.student)
    if run.bytes is not None:
        parts.append(text.size(run.bytes))
    return ", ".join([*parts, f"{duration(max(0.0, time.time() - run.began))} ago"])
