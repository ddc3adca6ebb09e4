"""Training a student on stored soft labels: ours against the reference's loop, which reads its files back and redoes
the crops image by image. ResNet-18, 64x64, IPC 10 of 10 classes: 100 images in batches of 50.

Where the time goes now (torch's profiler, one thread with AMX): convolutions 53 % (12 forward, 41 backward), BatchNorm
22 %, ReLU and the residual sums 20 %. Compiled, a step was no faster (1.53 s against 1.46 s, batch 50) and the graph
took a minute, so students are not compiled.

On a GPU, which one such student cannot fill, also several students side by side, a process each:

    python benchmarks/stage_students.py --seconds 10    # is one of them: prints its epochs a second
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import reference_sre2l as reference
import roofline
import subjects
import torch
from measure import Asked, by_turns, median, synchronise
from tables import Row
from torch import Tensor, nn

from teddy_ray.method.optimisation import threads
from teddy_ray.method.training import Trainer

SIZE, BATCH, VIEWS, TEMPERATURE, LR = 64, 50, 4, 20.0, 1e-3
SIDE_BY_SIDE = (1, 2, 4)


def rows(asked: Asked) -> Iterator[Row]:
    """Epochs a second."""
    count, epochs = asked.size(100, 12), asked.size(10 if asked.cuda else 1, 1)
    images, model = subjects.pictures(count, SIZE), subjects.network(asked, SIZE)
    with tempfile.TemporaryDirectory() as folder, threads(1):
        ours, theirs = _ours(asked, images, model, epochs), _theirs(asked, images, model, epochs, Path(folder))
        found = by_turns(ours, theirs, repeats=asked.size(7 if asked.cuda else 3, 2), device=asked.device)
        peaks = roofline.measured(asked.device, subjects.dtype(asked), tiny=asked.tiny)
    mine, other = (epochs / median(part) for part in found)
    dtype = subjects.dtype(asked)
    work = roofline.asks("train", model, (count, 3, SIZE, SIZE), element=dtype.itemsize)
    share = {"share of the roofline": peaks.floor(work, dtype) * mine, **peaks.facts()}
    yield Row(
        part="students",
        name=f"ResNet-18, 64x64, {count} images, batch {BATCH}: epochs a second",
        ratio=mine / other,
        unit="/s",
        ours=mine,
        reference=other,
        at_least=3.0,
        n=len(found.ours),
        threads=1,
        more={"ours": found.ours, "reference": found.reference, **share},
    )
    if asked.cuda:
        yield from _side_by_side(asked)


def _ours(asked: Asked, images: Tensor, model: nn.Module, epochs: int) -> Callable[[], None]:
    labelled = subjects.labelled(asked, images, count_of_views=VIEWS)
    how = subjects.recipe(asked, epochs=1000, optimizer="adamw", lr=LR, temperature=TEMPERATURE)
    trainer = Trainer(subjects.placed(model, asked), how, steps_per_epoch=-(-len(images) // BATCH))

    def train() -> None:
        for _ in range(epochs):
            epoch = trainer.step // trainer.steps_per_epoch
            trainer.epoch(
                labelled.batches(regime="views", epoch=epoch, batch_size=BATCH, temperature=TEMPERATURE, seed=0)
            )

    return train


def _theirs(asked: Asked, images: Tensor, model: nn.Module, epochs: int, folder: Path) -> Callable[[], None]:
    """Its files are there already: labelling is another benchmark's."""
    decoded, student, labels = reference.decoded(images), deepcopy(model), folder / "labels"
    reference.relabel(
        [deepcopy(model)],
        decoded,
        labels,
        look=subjects.look(SIZE),
        epochs=1,
        batch_size=BATCH,
        crop_scale=subjects.SRE2L.crop_scale,
        seed=0,
        device=asked.device,
    )

    def train() -> None:
        reference.train_student(
            student,
            decoded,
            labels,
            look=subjects.look(SIZE),
            epochs=epochs,
            batch_size=BATCH,
            lr=LR,
            weight_decay=0.01,
            temperature=TEMPERATURE,
            seed=0,
            label_seed=0,
            device=asked.device,
        )

    return train


def _side_by_side(asked: Asked) -> Iterator[Row]:
    """What several students on one device come to together, over what one does alone."""
    command = [sys.executable, __file__, "--seconds", str(asked.size(10, 1)), "--device", str(asked.device)]
    together = {}
    for count in SIDE_BY_SIDE:
        start = ["--start", str(time.time() + asked.size(60, 10))]
        students = [subprocess.Popen([*command, *start], stdout=subprocess.PIPE, text=True) for _ in range(count)]
        together[count] = sum(float(student.communicate()[0]) for student in students)
        yield Row(
            part="students",
            name=f"{count} students side by side, a process each: epochs a second together, over one",
            ratio=together[count] / together[1],
            unit="/s",
            ours=together[count],
            reference=together[1],
            threads=1,
        )


def main() -> None:
    """Train alone for some seconds from a moment on; print the epochs a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--start", type=float, default=0.0, help="Unix time, by which all have warmed up")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    asked = Asked(device=torch.device(given.device), tiny=False, compiled=False)
    torch.set_num_threads(1)
    train = _ours(asked, subjects.pictures(100, SIZE), subjects.network(asked, SIZE), 1)
    train()
    synchronise(asked.device)
    time.sleep(max(0.0, given.start - time.time()))
    started, epochs = time.perf_counter(), 0
    while time.perf_counter() - started < given.seconds:
        train()
        epochs += 1
    print(epochs / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
