"""How many steps distill needs: accuracy against model steps, all else equal.

    python benchmarks/fewer_steps.py                        # held-out-digits, in minutes; tiny-imagenet, in an hour
    python benchmarks/fewer_steps.py --studies held-out-digits

Recipe teddy, whose start is real patches that the base finds easiest; a row differs by what it says of distill alone.
"none" is that start as it is: what distilling is worth is what a row lies above it. A model step is one model's look at
one unit. held-out-digits are the digits' training images, a quarter of which take the test images' place, so that a
recipe's values can be chosen here: that is where those of teddy come from. Ten classes of Tiny-ImageNet then show what
they are worth elsewhere. Writes benchmarks/results/<date>-fewer-steps-<device>.{json,md}.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import machine
from runs import TINY_IMAGENET, as_text, carried_out
from tables import dated, markdown, write

from teddy_ray import data
from teddy_ray.spec import DataSpec
from teddy_ray.store import images

HELD_OUT = "held-out-digits"
Steps = tuple[int, int, float]
"""Iterations, models a step, learning rate."""
ROWS: list[Steps] = [(0, 1, 0.03), (300, 5, 0.01), (100, 5, 0.01), (300, 1, 0.01), (150, 1, 0.02), (150, 1, 0.03)]
MORE: list[Steps] = [(300, 2, 0.01), (100, 5, 0.03), (200, 1, 0.01), (300, 1, 0.02), (100, 1, 0.03), (75, 1, 0.04)]


@dataclass(frozen=True)
class Study:
    """Rows on ten classes. ``settings`` are of all of them: fewer than the recipe's where those would take hours."""

    data: str
    ipc: int
    workers: int
    rows: list[Steps]
    settings: dict[str, Any]


STUDIES = {
    HELD_OUT: Study(HELD_OUT, 1, 1, ROWS + MORE, {"evaluate.seeds": 10, "evaluate.controls": []}),
    "tiny-imagenet": Study(
        TINY_IMAGENET,
        10,
        2,
        ROWS,
        {
            "base.epochs": 12,
            "pool.size": 5,
            "relabel.views": 10,
            "evaluate.seeds": 4,
            "evaluate.epochs": 60,
            "evaluate.regimes": ["views"],
            "evaluate.controls": [],
        },
    ),
}


def main() -> None:
    """Run every row, then write and print the tables."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="teddy-store")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    options = parser.parse_args()
    save({name: run(STUDIES[name], options.store) for name in options.studies})


def run(study: Study, store: str) -> dict[str, dict[str, Any]]:
    """Each row's results.json, by its name."""
    source = f"{store}/{HELD_OUT}" if study.data == HELD_OUT else study.data
    if study.data == HELD_OUT:
        write_held_out_digits(Path(source))
    options = Namespace(store=store, data=source, classes="10", ipc=str(study.ipc), workers=str(study.workers))
    found = {}
    for iterations, models, lr in study.rows:
        said = f"{iterations} iterations, {models} model{'s' * (models > 1)}, lr {lr:g}"
        steps = {"distill.iterations": iterations, "distill.models_per_step": models, "distill.lr": lr}
        found[said if iterations else "none: the start"] = carried_out(
            study.settings | steps, recipe="teddy", options=options
        )
    return found


def write_held_out_digits(folder: Path) -> None:
    """The digits' training images as a dataset of their own, every fourth of a shuffled order for validation."""
    real = data.load(DataSpec(source="digits"))
    order = torch.randperm(len(real.train.labels), generator=torch.Generator().manual_seed(7))
    held = len(order) // 4
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", order[held:]), ("val", order[:held])):
        content = images.to_parquet(real.train.images[rows], real.train.labels[rows], real.class_names)
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(content)


def save(studies: dict[str, dict[str, dict[str, Any]]]) -> None:
    """The tables with what it takes to repeat them, and all numbers as JSON."""
    here = machine(torch.device("cpu"))
    first = next(iter(next(iter(studies.values())).values()))
    how = (
        f"`python benchmarks/fewer_steps.py --studies {' '.join(studies)}` on {here['device']}"
        f" ({', '.join(here['features'])}), torch {here['torch']}, {first['environment']['precision']}. Recipe teddy;"
        " seed = 0, base.seed = 0, student seeds from 0. Top-1 in percent after the last epoch; ± is the sample"
        " standard deviation over the students. Seconds: of all units together, each on one thread; other work beside"
        " them makes them longer."
    )
    text = "\n".join(["# Distill with fewer steps", "", how, "", *(part(*item) for item in studies.items())])
    keep = ("spec", "environment", "seconds", "digests", "scores", "units", "base")
    found = {
        study: {name: {key: results[key] for key in keep if key in results} for name, results in rows.items()}
        for study, rows in studies.items()
    }
    write(dated(f"fewer-steps-{here['slug']}"), {"machine": here, "studies": found}, text)
    print(text)


def part(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """One study's table."""
    study, first = STUDIES[name], next(iter(rows.values()))
    regimes = first["spec"]["evaluate"]["regimes"]
    said = (
        f"{len(first['dataset']['class_names'])} classes, IPC {study.ipc}, {as_text(study.settings)}. Full data, the"
        f" base itself: {first['base']['accuracy']:.1f}."
    )
    columns = ("distill", "model steps", "seconds", *regimes)
    return "\n".join([f"## {name}", "", said, "", markdown(columns, [row(*item) for item in rows.items()]), ""])


def row(name: str, results: dict[str, Any]) -> list[str]:
    """What a row shows: its model steps and seconds in distill, and its accuracies."""
    distill, seconds = results["spec"]["distill"], sum(unit["seconds"] for unit in results["units"])
    scores = {score["regime"]: score for score in results["scores"] if score["set"] == "distilled"}
    cells = [
        f"{scores[regime]['accuracy']:.1f} ± {scores[regime]['spread']:.1f}"
        for regime in results["spec"]["evaluate"]["regimes"]
    ]
    return [name, str(distill["iterations"] * distill["models_per_step"]), f"{seconds:.0f}", *cells]


if __name__ == "__main__":
    main()
