"""A whole run, ten classes of Tiny-ImageNet at IPC 10 on a CPU: ``teddy-cloud run`` against SRe2L's four loops.

    python benchmarks/bench.py --only whole-run
    python benchmarks/whole_run.py --reference          # the other side alone: its seconds and accuracies as JSON

Equal on both sides: ConvNet as base and student, the first 100 images of each class, and EQUAL below: base epochs,
steps, views, student epochs and batch, and both cores, as two torch threads. Both decode the dataset from Parquet; each
is a process from its start to its end, and so with imports; ours with compilation too, its cache being empty, with the
report, and with five looks at the test set a student instead of one. Accuracy is top-1 on the real validation images
after the last epoch, the mean of three student seeds.

Ours twice: ``sre2l``, the same method through our stages; ``teddy``, our default, with five prior members and the base
as labellers, which is more to do, for the better images, and with repeated views mirrored.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import reference_sre2l as reference
import torch
from measure import Asked
from runs import TEDDY_CLOUD, TINY_IMAGENET, as_flags
from tables import Row
from torch import nn

from teddy_ray import data, models
from teddy_ray.data.dataset import Split
from teddy_ray.method.pixels import Pixels
from teddy_ray.spec import DataSpec

DATA = os.environ.get("TEDDY_TINY_IMAGENET", TINY_IMAGENET)
THREADS, SEEDS, SIZE = 2, 3, 64
CPU = torch.device("cpu")

EQUAL: dict[str, Any] = {
    "data.classes": 10, "data.per_class": 100, "base.epochs": 10, "base.batch_size": 50, "base.lr": 0.05,
    "base.crop_scale": 0.5, "base.weight_decay": 5e-4, "base.label_smoothing": 0.1, "distill.ipc": 10,
    "distill.iterations": 60, "relabel.views": 20, "relabel.crop_scale": 0.5, "evaluate.epochs": 30,
    "evaluate.batch_size": 50, "evaluate.lr": 0.001, "evaluate.weight_decay": 0.01, "evaluate.temperature": 4.0,
    "evaluate.seeds": SEEDS,
}  # fmt: skip
TINY: dict[str, Any] = EQUAL | {
    "data.classes": 2, "data.per_class": 10, "base.epochs": 5, "base.batch_size": 10, "distill.ipc": 2,
    "distill.iterations": 5, "relabel.views": 2, "evaluate.epochs": 2, "evaluate.batch_size": 4,
}  # fmt: skip
OURS: dict[str, Any] = {
    "base.arch": "convnet", "evaluate.students": ["convnet"], "evaluate.regimes": ["views"], "evaluate.controls": [],
    "base.threads": THREADS, "distill.threads": THREADS, "relabel.threads": THREADS, "evaluate.threads": THREADS,
    "compute.executor": "inline",
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "sre2l": {"distill.unit_images": 100},
    "teddy": {"distill.unit_images": 100, "pool.size": 5},
}


def rows(asked: Asked) -> Iterator[Row]:
    """Wall seconds over the reference's, and points of accuracy above it."""
    equal = TINY if asked.tiny else EQUAL
    theirs = _reference(asked)
    for recipe in RECIPES:
        mine = _ours(recipe, equal, asked)
        name = f"{recipe}, {equal['data.classes']} classes, IPC {equal['distill.ipc']}"
        more = {"ours": mine, "reference": theirs, "equal": equal}
        yield Row(
            part="whole-run", name=f"{name}: wall seconds over the reference's", unit="s", at_most=0.3,
            ratio=mine["seconds"] / theirs["seconds"], ours=mine["seconds"], reference=theirs["seconds"],
            threads=THREADS, more=more,
        )  # fmt: skip
        own, other = (statistics.mean(found["accuracies"]) for found in (mine, theirs))
        more["standard deviations"] = [statistics.stdev(found["accuracies"]) for found in (mine, theirs)]
        yield Row(
            part="whole-run", name=f"{name}: points of accuracy above the reference", unit="%", at_least=0.0,
            ratio=own - other, ours=own, reference=other, n=SEEDS, threads=THREADS, more=more,
        )  # fmt: skip


def _ours(recipe: str, equal: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """One run in a new store, with an empty cache of compiled code."""
    settings = equal | OURS | RECIPES[recipe]
    if not asked.compiled:
        settings["compute.compile"] = "never"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(TEDDY_CLOUD, "run", "--json", "--recipe", recipe),
            *("--data", DATA, "--store", f"{folder}/store", "--device", "cpu"),
            *as_flags(settings),
        ]
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled"}
        started = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        seconds = time.monotonic() - started
    found = json.loads(done.stdout)
    scores = next(row for row in found["scores"] if row["set"] == "distilled")
    return {"seconds": seconds, "accuracies": scores["runs"], "stages": found["seconds"]}


def _reference(asked: Asked) -> dict[str, Any]:
    command = [sys.executable, __file__, "--reference", *(["--tiny"] * asked.tiny)]
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"seconds": time.monotonic() - started, **json.loads(done.stdout)}


def carry_out(equal: dict[str, Any]) -> dict[str, Any]:
    """The reference's four loops, one after another; each student's accuracy, and each loop's seconds."""
    torch.set_num_threads(THREADS)
    clock = _Clock()
    real = data.load(DataSpec(source=DATA, classes=equal["data.classes"], per_class=equal["data.per_class"]))
    classes, pixels = len(real.class_names), Pixels.of(real.train.images)
    look = reference.Look(SIZE, pixels.mean, pixels.std)
    test, test_labels = reference.decoded(real.test.images), real.test.labels.tolist()
    clock.done("data")
    base = _base(equal, models.build("convnet", classes, SIZE), real.train, look)
    base_accuracy = reference.accuracy(base, test, test_labels, look=look, device=CPU)
    clock.done("squeeze")
    settings = reference.RecoverSettings(iterations=equal["distill.iterations"])
    images = [
        reference.recover(base, part, look=look, settings=settings, seed=number)
        for number, part in enumerate(torch.arange(classes).repeat(equal["distill.ipc"]).split(100))
    ]
    pictures = reference.decoded(torch.cat(images))
    clock.done("recover")
    with tempfile.TemporaryDirectory() as folder:
        reference.relabel(
            [base],
            pictures,
            Path(folder) / "labels",
            look=look,
            epochs=equal["relabel.views"],
            batch_size=equal["evaluate.batch_size"],
            crop_scale=equal["relabel.crop_scale"],
            seed=0,
            device=CPU,
        )
        clock.done("relabel")
        students = [_student(equal, classes, pictures, Path(folder), look=look, seed=seed) for seed in range(SEEDS)]
    accuracies = [reference.accuracy(student, test, test_labels, look=look, device=CPU) for student in students]
    clock.done("students")
    return {"accuracies": accuracies, "base": base_accuracy, "stages": clock.seconds}


def _base(equal: dict[str, Any], model: nn.Module, train: Split, look: reference.Look) -> nn.Module:
    return reference.squeeze(
        model,
        reference.decoded(train.images),
        train.labels.tolist(),
        look=look,
        epochs=equal["base.epochs"],
        lr=equal["base.lr"],
        batch_size=equal["base.batch_size"],
        weight_decay=equal["base.weight_decay"],
        label_smoothing=equal["base.label_smoothing"],
        crop_scale=equal["base.crop_scale"],
        seed=0,
        device=CPU,
    )


def _student(
    equal: dict[str, Any], classes: int, pictures: list[Any], folder: Path, *, look: reference.Look, seed: int
) -> nn.Module:
    return reference.train_student(
        models.build("convnet", classes, SIZE, seed=1 + seed),
        pictures,
        folder / "labels",
        look=look,
        epochs=equal["evaluate.epochs"],
        batch_size=equal["evaluate.batch_size"],
        lr=equal["evaluate.lr"],
        weight_decay=equal["evaluate.weight_decay"],
        temperature=equal["evaluate.temperature"],
        seed=seed,
        label_seed=0,
        device=CPU,
    )


class _Clock:
    """Seconds of what was done since the last call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def done(self, what: str) -> None:
        now = time.monotonic()
        self.seconds[what], self._last = round(now - self._last, 1), now


def main() -> None:
    """The reference's side alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", required=True)
    parser.add_argument("--tiny", action="store_true")
    print(json.dumps(carry_out(TINY if parser.parse_args().tiny else EQUAL)))


if __name__ == "__main__":
    main()
