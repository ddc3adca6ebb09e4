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

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measure import machine
from runs import TINY_IMAGENET, as_text, carried_out, options_parser
from tables import dated, markdown, write

from teddy_ray import data
from teddy_ray.data.dataset import Split
from teddy_ray.spec import DataSpec
from teddy_ray.store import images


@dataclass(frozen=True)
class Study:
    """Rows on one dataset. ``settings`` are of all of them: fewer than the recipe's where those would take hours."""

    data: str
    ipc: int
    settings: dict[str, Any]
    also: tuple[str, ...] = field(default=())
    """Rows of ``MORE`` that are asked for here."""


ROWS: dict[str, dict[str, Any]] = {
    "none: the start": {"distill.iterations": 0},
    "300 iterations, 5 models, lr 0.01": {"distill.iterations": 300, "distill.models_per_step": 5, "distill.lr": 0.01},
    "100 iterations, 5 models, lr 0.01": {"distill.iterations": 100, "distill.models_per_step": 5, "distill.lr": 0.01},
    "300 iterations, 1 model, lr 0.01": {"distill.iterations": 300, "distill.models_per_step": 1, "distill.lr": 0.01},
    "150 iterations, 1 model, lr 0.02": {"distill.iterations": 150, "distill.models_per_step": 1, "distill.lr": 0.02},
    "150 iterations, 1 model, lr 0.03": {"distill.iterations": 150, "distill.models_per_step": 1, "distill.lr": 0.03},
}
MORE: dict[str, dict[str, Any]] = {
    "300 iterations, 2 models, lr 0.01": {"distill.iterations": 300, "distill.models_per_step": 2, "distill.lr": 0.01},
    "100 iterations, 5 models, lr 0.03": {"distill.iterations": 100, "distill.models_per_step": 5, "distill.lr": 0.03},
    "200 iterations, 1 model, lr 0.01": {"distill.iterations": 200, "distill.models_per_step": 1, "distill.lr": 0.01},
    "300 iterations, 1 model, lr 0.02": {"distill.iterations": 300, "distill.models_per_step": 1, "distill.lr": 0.02},
    "100 iterations, 1 model, lr 0.03": {"distill.iterations": 100, "distill.models_per_step": 1, "distill.lr": 0.03},
    "75 iterations, 1 model, lr 0.04": {"distill.iterations": 75, "distill.models_per_step": 1, "distill.lr": 0.04},
}
STUDIES = {
    "held-out-digits": Study("held-out-digits", 1, {"evaluate.seeds": 10, "evaluate.controls": []}, tuple(MORE)),
    "tiny-imagenet": Study(
        TINY_IMAGENET,
        10,
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
    parser = options_parser(__doc__)
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    options = parser.parse_args()
    save({name: run(STUDIES[name], options) for name in options.studies})


def run(study: Study, options: Namespace) -> dict[str, dict[str, Any]]:
    """Each row's results.json."""
    if study.data == "held-out-digits":
        write_held_out_digits(Path(options.store, study.data))
        options.data, options.workers = f"{options.store}/{study.data}", "1"
    else:
        options.data = study.data
    options.ipc = str(study.ipc)
    rows = ROWS | {name: MORE[name] for name in study.also}
    return {name: carried_out({**study.settings, **row}, recipe="teddy", options=options) for name, row in rows.items()}


def write_held_out_digits(folder: Path) -> None:
    """The digits' training images as a dataset of their own, every fourth of a shuffled order for validation."""
    real = data.load(DataSpec(source="digits"))
    order = torch.randperm(len(real.train.labels), generator=torch.Generator().manual_seed(7))
    held = len(order) // 4
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", order[held:]), ("val", order[:held])):
        part = Split(real.train.images[rows], real.train.labels[rows])
        content = images.to_parquet(part.images, part.labels, real.class_names)
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
