"""Does distill need its steps? Recipe ``teddy`` on ten classes of Tiny-ImageNet, with fewer, larger and longer steps.

    python benchmarks/fewer_steps.py --data ../shared/data/tiny-imagenet-200 --store teddy-store

One base, one pool, one student recipe for all rows; a row differs from the first in what its name says. ``steps`` are
models looked at: iterations times models a step. Accuracy is the students' after their last epoch, on the real
validation images; ± is the sample standard deviation over student seeds. The last row, no step at all, is what distill
starts from: real images that the base finds easy. A row is worth its steps where it is above that one.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from measure import machine
from runs import as_text, carried_out, options_parser
from tables import dated, markdown, write

REGIMES = ("views", "fixed")
SHARED = {
    "base.epochs": 12,
    "pool.size": 5,
    "relabel.views": 10,
    "evaluate.seeds": 3,
    "evaluate.epochs": 60,
    "evaluate.regimes": list(REGIMES),
    "evaluate.controls": [],
}
"""Fewer than the recipe's where the recipe's would take two cores an hour."""

ROWS: dict[str, dict[str, Any]] = {
    "300 iterations, lr 0.01 (recipe)": {},
    "100 iterations": {"distill.iterations": 100},
    "30 iterations, lr 0.03": {"distill.iterations": 30, "distill.lr": 0.03},
    "none: the start": {"distill.iterations": 0},
}


def main() -> None:
    """Run every row, then write and print the table."""
    options = options_parser(__doc__).parse_args()
    found = {name: carried_out({**SHARED, **row}, recipe="teddy", options=options) for name, row in ROWS.items()}
    save(found, options)


def save(runs: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """The table with what it takes to repeat it, and all numbers as JSON."""
    here, first = machine(torch.device("cpu")), next(iter(runs.values()))
    how = (
        f"`python benchmarks/fewer_steps.py --classes {options.classes} --ipc {options.ipc}` on {here['device']}"
        f" ({', '.join(here['features'])}), torch {here['torch']}, {first['environment']['precision']}. Recipe teddy"
        f" with {as_text(SHARED)}; seed = 0, base.seed = 0, student seeds from 0. Full data, the base itself:"
        f" {first['base']['accuracy']:.1f}. Seconds: of all units together, each on one thread."
    )
    columns = ("distill", "steps", "seconds", *REGIMES)
    table = markdown(columns, [cells(name, results) for name, results in runs.items()])
    title = f"# Fewer steps: {options.classes} classes of Tiny-ImageNet, 64x64, IPC {options.ipc}"
    keep = ("spec", "environment", "seconds", "digests", "scores", "units")
    rows = {name: {key: results[key] for key in keep if key in results} for name, results in runs.items()}
    write(dated(f"fewer-steps-{here['slug']}"), {"machine": here, "runs": rows}, f"{title}\n\n{how}\n\n{table}\n")
    print(table)


def cells(name: str, results: dict[str, Any]) -> list[str]:
    part = results["spec"]["distill"]
    scores = {
        row["regime"]: f"{row['accuracy']:.1f} ± {row['spread']:.1f}"
        for row in results["scores"]
        if row["set"] == "distilled"
    }
    seconds = sum(unit["seconds"] for unit in results["units"])
    steps = part["iterations"] * part["models_per_step"]
    return [name, str(steps), f"{seconds:.0f}", *(scores[regime] for regime in REGIMES)]


if __name__ == "__main__":
    main()
