"""What ``teddy-cloud run`` prints on standard output: the plan of a dry run, and the tables at the end of a run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from teddy_ray.report import tables, text

if TYPE_CHECKING:
    from rich.table import Table

IPCS = (1, 10, 50, 100)
"""The sizes that the field reports, one of which is the next to try."""


def spec_toml(values: Mapping[str, Any]) -> str:
    """The whole spec as TOML for ``--spec``. TOML has no null, so what is unset follows as comments."""
    unset = [f"# {name} = (unset)" for name in _unset(values, "")]
    return text.toml(values) + "".join(f"{line}\n" for line in ["", *unset])


def _unset(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _unset(value, f"{prefix}{name}.")
        elif value is None:
            yield prefix + name


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """What a run makes and costs, in lines."""
    count = text.count
    costs = [
        f"{count(steps, 'step')} of {stage} ({text.duration(plan['seconds'][stage])})"
        for stage, steps in plan["steps"].items()
    ]
    return [
        f"makes: {count(plan['images'], 'image')} of {count(plan['classes'], 'class', 'classes')},"
        f" in {count(plan['units'], 'unit')}",
        f"labels: {label_text(plan)}",
        f"trains: the base, {count(plan['members'], 'member')}, {count(plan['students'], 'student')}",
        f"costs: {', '.join(costs)}",
        *(f"note: {text.printable(note)}" for note in plan["notes"]),
    ]


def label_text(makes: Mapping[str, Any]) -> str:
    """What the labels of one set take in the store, or that none are stored."""
    if not makes["label_rows"]:
        return "none stored, students ask the labellers"
    return f"{text.count(makes['label_rows'], 'row')}, {text.size(makes['label_bytes'])}"


def print_results(results: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """The scores with what they say, where everything lies, and what to run next. ``arguments`` made this run."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for student in tables.students(results):
        console.print(_score_table(results, student))
    for verdict in tables.verdicts(results):
        console.print(Text(verdict))
    for title, rows in (("Where", where(results)), ("Next", next_commands(results, arguments))):
        console.print(Text(f"\n{title}", style="bold"))
        for left, right in rows:
            # Paths and commands are copied from here: the terminal may wrap them, Rich may not.
            console.print(Text(f"  {left:<9}{text.printable(right)}"), soft_wrap=True)
    console.print(Text("\n" + finished(results)))


def _score_table(results: Mapping[str, Any], student: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{student} students, % of the real test set", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("Labels", "Trained on", "Accuracy", "Steps", "Construction"):
        table.add_column(name, justify="left" if name in ("Labels", "Trained on") else "right")
    for group in tables.groups(results):
        for row in group.rows if group.student == student else ():
            cells = (row.regime, row.set, row.score, row.steps, row.construction)
            table.add_row(*map(Text, cells), style="bold" if row.best else None, end_section=row is group.rows[-1])
    return table


def where(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, path) of everything that is published."""
    folder = results["folder"]
    return [
        ("images", f"{folder}/dataset/"),
        *([("labels", f"{folder}/labels/")] if "labels" in results["digests"] else []),
        ("page", page(results)),
        ("results", f"{folder}/results.json"),
    ]


def page(results: Mapping[str, Any]) -> str:
    return f"{results['folder']}/report/index.html"


def next_commands(results: Mapping[str, Any], arguments: Sequence[str]) -> list[tuple[str, str]]:
    """(what for, command) of what one does after this run."""
    commands = [first_look(results, arguments)]
    larger = larger_ipc(results)
    if larger is not None:
        commands.append(("more", ["teddy-cloud", *without_ipc(arguments), "--ipc", str(larger)]))
    commands.append(("settings", ["teddy-cloud", *arguments, "--dry-run"]))
    return [(what, shlex.join(command)) for what, command in commands]


def first_look(results: Mapping[str, Any], arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Open the page; of a store that is elsewhere, bring everything here first."""
    if "://" in results["folder"]:
        store = results["folder"].removesuffix(f"/runs/{results['run']}")
        return "pull", ["teddy-cloud", "pull", results["run"], results["run"], "--store", store, *endpoint(arguments)]
    return "look", ["open" if sys.platform == "darwin" else "xdg-open", page(results)]


def endpoint(arguments: Sequence[str]) -> list[str]:
    """``--endpoint-url`` as it was given, if it was."""
    for place, argument in enumerate(arguments):
        if argument.startswith("--endpoint-url"):
            return [argument] if "=" in argument else list(arguments[place : place + 2])
    return []


def larger_ipc(results: Mapping[str, Any]) -> int | None:
    """The next IPC worth trying, or None where the controls would lack real images."""
    ipc, dataset = results["spec"]["distill"]["ipc"], results["dataset"]
    larger: int = next((size for size in IPCS if size > ipc), 2 * ipc)
    return larger if larger * len(dataset["class_names"]) <= dataset["train_images"] else None


def without_ipc(arguments: Sequence[str]) -> list[str]:
    """``arguments`` without ``--ipc`` and ``--set distill.ipc``, written with a space or with ``=``."""
    kept: list[str] = []
    rest = list(arguments)
    while rest:
        size = 2 if rest[0] in ("--ipc", "--set") else 1
        part, rest = rest[:size], rest[size:]
        if not "=".join(part).startswith(("--ipc=", "--set=distill.ipc=")):
            kept += part
    return kept


def finished(results: Mapping[str, Any]) -> str:
    """One line: ``Done in 45 s; reused data, base and 3 units``."""
    reused = [*results["reused"]["stages"]]
    if results["reused"]["units"] and "distill" not in reused:
        reused.append(text.count(len(results["reused"]["units"]), "unit"))
    seconds = text.duration(sum(results["seconds"].values()))
    return f"Done in {seconds}" + (f"; reused {text.listed(reused)}." if reused else ".")
