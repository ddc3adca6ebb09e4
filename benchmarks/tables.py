"""Rows of what was measured, each with its target and verdict; merged by day and device into a JSON file and a table.

    save([row], machine=machine(device), folder=RESULTS)    # results/2026-11-21-cpu-amx.{json,md}

A row of the same part and name, measured again on the same day and device, takes the place of the earlier one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim. ``ratio`` is what the target is about, whatever it is called there; ``ours`` and ``reference`` are the
    medians of ``n`` repeats each, in ``unit``. A row without a target informs."""

    part: str
    name: str
    ratio: float
    unit: str
    ours: float
    reference: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    n: int = 1
    threads: int = 0
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"

    @property
    def verdict(self) -> str:
        if self.at_least is None and self.at_most is None:
            return ""
        enough = self.at_least is None or self.ratio >= self.at_least
        return "met" if enough and (self.at_most is None or self.ratio <= self.at_most) else "NOT MET"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [list(columns), ["---"] * len(columns), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(stem: Path, values: Any, text: str) -> None:
    """``stem.json`` and ``stem.md``."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(stem.name + ".json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    stem.with_name(stem.name + ".md").write_text(text)


def dated(name: str, folder: Path = RESULTS) -> Path:
    """``results/2026-11-21-NAME``, without an ending."""
    return folder / f"{datetime.now(UTC):%Y-%m-%d}-{name}"


def save(rows: Iterable[Row], *, machine: dict[str, Any], command: str, folder: Path) -> Path:
    """Merge the rows into today's file of this device, and write its table; the path without its ending."""
    stem = dated(machine["slug"], folder)
    before = stem.with_name(stem.name + ".json")
    found: list[dict[str, Any]] = json.loads(before.read_text())["rows"] if before.exists() else []
    new = [
        asdict(row) | {"target": row.target, "verdict": row.verdict, "torch": machine["torch"], "command": command}
        for row in rows
    ]
    names = {(row["part"], row["name"]) for row in new}
    merged = [row for row in found if (row["part"], row["name"]) not in names] + new
    merged.sort(key=lambda row: row["part"])  # stable: in a part, as measured
    write(stem, {"machine": machine, "rows": merged}, page(machine, merged))
    return stem


def page(machine: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The table with what it takes to repeat it."""
    features = ", ".join(machine["features"]) or "none of interest"
    head = f"# Measured on {machine['device']}\n\n{machine['cores']} cores; features: {features}."
    note = "ours and reference: medians of n repeats, alternating in one process. Rows without a target inform."
    return f"{head} Python {machine['python']}.\n{note}\n\n{table(rows)}\n"


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    columns = ("part", "what", "target", "measured", "", "ours", "reference", "n", "threads", "torch", "command")
    return markdown(columns, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    ours, reference = (
        "–" if value is None else f"{value:.4g} {row['unit']}".rstrip() for value in (row["ours"], row["reference"])
    )
    numbers = [ours, reference, str(row["n"]), str(row["threads"] or "–")]
    verdict = f"**{row['verdict']}**" if row["verdict"] == "NOT MET" else row["verdict"]
    return [
        row["part"], row["name"], row["target"], f"{row['ratio']:.3g}", verdict, *numbers, row["torch"],
        f"`{row['command']}`",
    ]  # fmt: skip
