"""Runs side by side: where their specs differ, and what they scored.

compare(store, ["digits-ipc1-teddy-1a2b3c4d", "digits-ipc10-teddy-5e6f7a8b"]).settings["distill.ipc"]    # [1, 10]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from teddy_ray.pipeline import manifest as manifests
from teddy_ray.pipeline import runs
from teddy_ray.store import Store


@dataclass(frozen=True, kw_only=True)
class Score:
    """One set's accuracy, in points; ``spread`` over seeds is None for one seed."""

    accuracy: float
    spread: float | None
    seeds: int


@dataclass(frozen=True, kw_only=True)
class ScoreLine:
    """What one student, trained on one set under one regime, scored in every run; None where it was not trained."""

    student: str
    regime: str
    set: str
    scores: list[Score | None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``settings``: what is not the same in all specs, by dotted name, a value a run."""

    runs: list[str]
    finished: list[bool]
    settings: dict[str, list[Any]]
    scores: list[ScoreLine]


def compare(store: Store, names: Sequence[str]) -> Comparison:
    """The runs in their order; one that is not finished has a spec, and no scores."""
    flat = [dict(_flat(runs.spec(store, run), "")) for run in names]
    keys = dict.fromkeys(key for values in flat for key in values)
    columns = {key: [values.get(key) for values in flat] for key in keys}
    found = [manifests.load(store, run) for run in names]
    scores = [manifests.results(store, manifest)["scores"] if manifest else [] for manifest in found]
    return Comparison(
        runs=list(names),
        finished=[manifest is not None for manifest in found],
        settings={key: values for key, values in columns.items() if any(value != values[0] for value in values)},
        scores=_lines(scores),
    )


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _lines(scores: Sequence[Sequence[Mapping[str, Any]]]) -> list[ScoreLine]:
    """A line for everything that any run has scored, in the order of the first that did."""
    tables = [{(row["student"], row["regime"], row["set"]): _score(row) for row in rows} for rows in scores]
    keys = dict.fromkeys(key for table in tables for key in table)
    return [
        ScoreLine(
            student=student, regime=regime, set=name, scores=[table.get((student, regime, name)) for table in tables]
        )
        for student, regime, name in keys
    ]


def _score(row: Mapping[str, Any]) -> Score:
    return Score(accuracy=row["accuracy"], spread=row["spread"], seeds=len(row["runs"]))
