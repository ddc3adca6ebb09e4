"""Ten classes of Tiny-ImageNet at 64x64, IPC 10: Teddy (prior and post), SRe2L and random real images.

    python benchmarks/tiny_imagenet.py --data ../shared/data/tiny-imagenet-200
    python benchmarks/tiny_imagenet.py --recipes teddy sre2l

One base model, one student recipe, one number of student steps for all rows; each row has its own labels, and beside it
random real images and a coreset with the same labels. Accuracy is the student's after its last epoch, on the real
validation images of the ten classes. Writes benchmarks/results/<date>-tiny-imagenet-<device>.{json,md,png}.

Where the time goes on two cores (see the result's own seconds): the base's training and the students, about equally.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from runs import as_text, carried_out, options_parser
from tables import dated, markdown, write

from teddy_ray.report.sheet import contact_sheet
from teddy_ray.store import images

RECIPES = ("teddy-prior", "teddy-post", "sre2l", "random")

# What all recipes share here, so that a row differs from another by its images and labels alone. Fewer steps than the
# recipes have: this is what two cores do in an hour.
EQUAL: dict[str, Any] = {
    "base.epochs": 12,
    "relabel.views": 30,
    "relabel.crop_scale": 0.5,
    "relabel.mix": "cutmix",
    "evaluate.epochs": 60,
    "evaluate.lr": 0.001,
    "evaluate.lr_end": 0.0,
    "evaluate.temperature": 4.0,
    "evaluate.batch_size": 50,
    "evaluate.regimes": ["views"],
    "distill.unit_images": 50,
}
STEPS = 200
"""Of a unit: the same for all recipes that optimise."""


def main() -> None:
    """Run every recipe, then write and print the table."""
    parser = options_parser(__doc__)
    parser.add_argument("--seeds", default=2, type=int)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    options = parser.parse_args()
    save({recipe: run(recipe, options) for recipe in options.recipes}, options)


def run(recipe: str, options: argparse.Namespace) -> dict[str, Any]:
    """One recipe's results.json."""
    settings = {**EQUAL, "evaluate.seeds": options.seeds}
    if recipe != "random":
        settings["distill.iterations"] = STEPS
    return carried_out(settings, recipe=recipe, options=options)


def table(runs: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    columns = (
        *("recipe", "its images", "random, same labels", "coreset, same labels"),
        *("labelled by", "construction"),
    )
    rows = []
    for recipe, results in runs.items():
        found = {row["set"]: row for row in results["scores"]}
        cells = [score(found.get(name)) for name in ("distilled", "random", "coreset")]
        labellers = results["spec"]["relabel"]["labellers"]
        rows.append([recipe, *cells, labellers, f"{found['distilled']['construction_seconds']:.0f} s"])
    return markdown(columns, rows)


def score(row: dict[str, Any] | None) -> str:
    """Accuracy and its spread, or a dash where the recipe has no such control."""
    return "–" if row is None else f"{row['accuracy']:.1f} ± {row['spread']:.1f}"


def save(runs: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """The table with what it takes to repeat it, and all numbers as JSON."""
    first = next(iter(runs.values()))
    environment, full = first["environment"], first["base"]["accuracy"]
    device = environment["device"].split(" ")[0]
    how = (
        f"`make bench-tiny` on {environment['device']}, {environment['workers']} workers,"
        f" {environment['precision']}, torch {environment['torch']}. Top-1 in percent on the real validation images,"
        f" after the last epoch; ± is the sample standard deviation over {options.seeds} student seeds (for random,"
        f" over as many draws too). Student and base: convnet. Full data, the base itself: {full:.1f}. All rows:"
        f" {as_text(EQUAL)}; {STEPS} steps a unit. Construction: worker seconds of base, pool, images and"
        " labels."
    )
    title = f"# {options.classes} classes of Tiny-ImageNet, 64x64, IPC {options.ipc}"
    text = "\n".join([title, "", how, "", table(runs), ""])
    keep = ("spec", "environment", "seconds", "digests", "scores", "members", "students")
    rows = {recipe: {key: results[key] for key in keep} for recipe, results in runs.items()}
    stem = dated(f"tiny-imagenet-{device}")
    write(stem, {"full": full, "runs": rows}, text)
    stem.with_name(stem.name + ".png").write_bytes(picture(runs))
    print(text)


def picture(runs: dict[str, dict[str, Any]]) -> bytes:
    """The first image of every class, a row a recipe, as PNG."""
    firsts = []
    for results in runs.values():
        file = min(Path(results["folder"]).glob("dataset/data/*.parquet"))
        pictures, _, class_names = images.from_parquet(file.read_bytes())
        firsts.append(pictures[: len(class_names)])
    return contact_sheet(torch.cat(firsts), columns=len(firsts[0]))


if __name__ == "__main__":
    main()
