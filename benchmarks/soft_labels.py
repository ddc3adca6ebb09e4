"""What soft labels cost and bring: bytes against accuracy, on ten classes of Tiny-ImageNet at 64x64, IPC 10.

    python benchmarks/soft_labels.py --data ../shared/data/tiny-imagenet-200
    python benchmarks/soft_labels.py --recipe random --classes 50 --ipc 5 --per-class 100
    python benchmarks/soft_labels.py --data digits --classes 3 --ipc 2 --epochs 4 --points "8 bits, 50 %" none

One base, one pool, one set of images, one student recipe, the same student seeds, the same store: the points differ by
what is kept of a label and by how many views there are before they come round again. A point's bytes are those of its
label files; they stand beside those of float16 logits for the view of every epoch, epochs · N · K · 2, which is what
SRe2L's relabelling writes (it has no files' overhead here). Accuracy is the student's after its last epoch, on the real
validation images. Writes benchmarks/results/<date>-soft-labels-<classes>-classes-<device>.{json,md}.

Where the time goes (the result has its own seconds): the students; after them the labellers' answers to 100 views,
which are asked for once for each point.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import cpu_features
from runs import as_text, carried_out, options_parser
from tables import RESULTS, dated, markdown, write

# Of all points. What a base, a pool and images of the recipe teddy cost is not the question here: they are the same for
# all points, and smaller than the recipe's so that two cores get through.
EQUAL: dict[str, Any] = {
    "base.epochs": 12,
    "pool.size": 3,
    "distill.models_per_step": 3,
    "distill.iterations": 40,
    "evaluate.regimes": ["views"],
    "evaluate.controls": [],
}
RECORDED = ("spec_digest", "digests", "environment", "seconds", "spec", "base", "label_views")


@dataclass(frozen=True)
class Point:
    """What is kept: ``views``, as a share of the epochs."""

    views: float
    bits: int = 16
    top_k: int | None = None
    mirror: bool = True
    store: bool = True

    def settings(self, epochs: int) -> dict[str, Any]:
        kept = {"relabel.views": max(1, round(self.views * epochs)), "relabel.bits": self.bits}
        kept |= {"relabel.store": self.store}
        kept |= {} if self.top_k is None else {"relabel.top_k": self.top_k}
        return {**kept, "evaluate.mirror_repeats": self.mirror}


REFERENCE = "16 bits"
POINTS: dict[str, Point | None] = {
    REFERENCE: Point(1.0),
    "none": Point(1.0, store=False),
    "recipe": None,
    "8 bits": Point(1.0, 8),
    "4 bits": Point(1.0, 4),
    "4 bits, top 10": Point(1.0, 4, 10),
    "4 bits, top 5": Point(1.0, 4, 5),
    "4 bits, top 3": Point(1.0, 4, 3),
    "4 bits, top 5, 50 %": Point(0.5, 4, 5),
    "8 bits, top 3": Point(1.0, 8, 3),
    "8 bits, 50 %": Point(0.5, 8),
    "4 bits, 50 %": Point(0.5, 4),
    "4 bits, 20 %": Point(0.2, 4),
    "4 bits, 10 %": Point(0.1, 4),
    "4 bits, not mirrored, 10 %": Point(0.1, 4, mirror=False),
    "4 bits, 5 %": Point(0.05, 4),
}
"""By name: bits of a logit, classes kept, views as a share of the epochs; None: all as the recipe has it."""


def main() -> None:
    """Run every point, then write and print the table."""
    parser = options_parser(__doc__)
    parser.add_argument("--recipe", default="teddy", help="random: real images, which take no distilling")
    parser.add_argument("--per-class", type=int, help="real images of each class; all of them unless told")
    parser.add_argument("--seeds", default=3, type=int)
    parser.add_argument("--epochs", default=100, type=int)
    parser.add_argument("--points", nargs="+", choices=POINTS, default=list(POINTS), metavar="POINT")
    parser.add_argument("--results", default=RESULTS, type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    rows = {
        name: row(run(POINTS[name], options), options.epochs) for name in dict.fromkeys([REFERENCE, *options.points])
    }
    save(rows, options, time.monotonic() - started)


def run(point: Point | None, options: argparse.Namespace) -> dict[str, Any]:
    """One point's results.json, with the size of its label files."""
    settings = {
        **{key: value for key, value in EQUAL.items() if options.recipe != "random" or not key.startswith("distill.")},
        "evaluate.seeds": options.seeds,
        "evaluate.epochs": options.epochs,
        **(point.settings(options.epochs) if point else {}),
        **({} if options.per_class is None else {"data.per_class": options.per_class}),
    }
    results = carried_out(settings, recipe=options.recipe, options=options)
    folder = Path(results["folder"])
    return {**results, "label_bytes": sum(file.stat().st_size for file in folder.glob("labels/*.parquet"))}


def row(results: dict[str, Any], epochs: int) -> dict[str, Any]:
    """What the table and the JSON say of a point."""
    (score,) = [score for score in results["scores"] if score["set"] == "distilled"]
    classes = len(results["dataset"]["class_names"])
    everything = epochs * classes * results["spec"]["distill"]["ipc"] * classes * 2
    students = [student["seconds"] for student in results["students"]]
    return {
        "relabel": results["spec"]["relabel"],
        "bytes": results["label_bytes"],
        "smaller": everything / results["label_bytes"] if results["label_bytes"] else None,
        "accuracy": score["accuracy"],
        "spread": score["spread"],
        "runs": score["runs"],
        "student_seconds": sum(students) / len(students),
        **{key: results[key] for key in RECORDED},
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The points as Markdown, in the order of their bytes."""
    lines = []
    reference = rows[REFERENCE]["accuracy"]
    for name, found in sorted(rows.items(), key=lambda item: -item[1]["bytes"]):
        smaller = "–" if found["smaller"] is None else f"{found['smaller']:.1f}x"
        spread = "" if found["spread"] is None else f" ± {found['spread']:.1f}"
        gap = "" if name == REFERENCE else f"{found['accuracy'] - reference:+.1f}"
        kept = name.removesuffix(" %").rpartition(", ")[0] if name.endswith("%") else name
        accuracy, seconds = f"{found['accuracy']:.1f}{spread}", f"{found['student_seconds']:.0f} s"
        lines.append([kept, str(found["label_views"]), f"{found['bytes']:,}", smaller, accuracy, gap, seconds])
    return markdown(("labels", "views", "bytes", "smaller", "accuracy", "to 16 bits", "a student"), lines)


def save(rows: dict[str, dict[str, Any]], options: argparse.Namespace, seconds: float) -> None:
    """The table with what it takes to repeat it, and all numbers as JSON."""
    first = rows[REFERENCE]
    environment, command = first["environment"], shlex.join(["python", "benchmarks/soft_labels.py", *sys.argv[1:]])
    if len({found["digests"]["images"] for found in rows.values()}) > 1:
        raise SystemExit("the points have not the same images")
    how = (
        f"`{command}` on {environment['device']} with {', '.join(cpu_features()) or 'no features of interest'},"
        f" {environment['workers']} workers, {environment['precision']}, torch {environment['torch']}, Python"
        f" {environment['python']}, {seconds / 60:.0f} minutes (less, where the store had something). Recipe"
        f" {options.recipe}, {as_text(EQUAL)}; {options.epochs} epochs. The same base, pool and images for all points."
        f" Top-1 in percent on the real validation images, after the last epoch; ± is the sample standard deviation"
        f" over {options.seeds} student seeds, the same for all points. Views: before they come round again. Bytes: of"
        " the label files, with view 0. Smaller: than float16 logits for the view of every epoch."
    )
    dataset = f"{Path(options.data).name}, {options.classes} classes, IPC {options.ipc}"
    title = f"# Soft labels: bytes against accuracy ({dataset})"
    text = "\n".join([title, "", how, "", table(rows), ""])
    device = environment["device"].split(" ")[0]
    made = {"command": command, "seconds": seconds, "features": cpu_features(), "points": rows}
    write(dated(f"soft-labels-{options.classes}-classes-{device}", options.results), made, text)
    print(text)


if __name__ == "__main__":
    main()
