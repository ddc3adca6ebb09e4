"""Training the base: how much of an epoch is spent outside the model, how far it is from the roofline, and how far
ahead of the reference's loop, whose images torchvision crops one at a time. ResNet-18, 64x64, crops and mirrors."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import reference_sre2l as reference
import roofline
import subjects
import torch
from measure import Asked, by_turns, cores, median, threads
from tables import Row

from teddy_ray.method.training import Trainer, real_batches

SIZE, CROP_SCALE = 64, 0.5
LOADERS = 8
"""Processes that the reference's DataLoader has on a GPU machine; on two cores it has none."""


def rows(asked: Asked) -> Iterator[Row]:
    """Shares of an epoch's time, and the epoch over the reference's."""
    batch, steps = asked.size(128 if asked.cuda else 32, 4), asked.size(40 if asked.cuda else 2, 2)
    images, model = subjects.pictures(batch * steps, SIZE), subjects.network(asked, SIZE)
    labels = torch.arange(len(images)) % subjects.CLASSES
    how = subjects.recipe(asked, epochs=1000, optimizer="sgd", lr=0.01)
    trainer = Trainer(subjects.placed(model), how, steps_per_epoch=steps)
    decoded, theirs = reference.decoded(images), deepcopy(model)

    def batches():  # noqa: ANN202 - an iterator of the method's batches
        return real_batches(
            images,
            labels,
            classes=subjects.CLASSES,
            batch_size=batch,
            epoch=trainer.step // steps,
            crop_scale=CROP_SCALE,
            flip=True,
            pixels=subjects.PIXELS,
            seed=0,
            device=asked.device,
        )

    def squeeze() -> None:
        reference.squeeze(
            theirs,
            decoded,
            labels.tolist(),
            look=subjects.look(SIZE),
            epochs=1,
            lr=0.01,
            batch_size=batch,
            weight_decay=0.01,
            crop_scale=CROP_SCALE,
            seed=0,
            device=asked.device,
            loaders=min(LOADERS, cores()) if asked.cuda else 0,
        )

    with threads(1):
        ready = next(iter(batches()))
        repeats = asked.size(7 if asked.cuda else 3, 2)
        whole, bare = map(
            median,
            by_turns(
                lambda: trainer.epoch(batches()),
                lambda: trainer.epoch([ready] * steps),
                repeats=repeats,
                device=asked.device,
            ),
        )
        ours, theirs_seconds = map(
            median, by_turns(lambda: trainer.epoch(batches()), squeeze, repeats=repeats, device=asked.device)
        )
        peaks = roofline.measured(asked.device, tiny=asked.tiny)
    dtype = subjects.dtype(asked)
    work = roofline.asks("train", model, (batch, 3, SIZE, SIZE), element=dtype.itemsize)
    floor = steps * peaks.floor(work, dtype)
    name = f"ResNet-18, 64x64, batch {batch}"
    common = {"part": "base", "unit": "s", "n": repeats, "threads": 1}
    yield Row(
        name=f"{name}: share of an epoch outside the model", ratio=1 - bare / whole, ours=whole, reference=bare,
        at_most=0.05, **common,
    )  # fmt: skip
    yield Row(
        name=f"{name}: an epoch over the {dtype} roofline's".replace("torch.", ""), ratio=whole / floor, ours=whole,
        reference=floor, at_most=1.3 if asked.cuda else None, more=peaks.facts(), **common,
    )  # fmt: skip
    yield Row(
        name=f"{name}: times as fast as the plain loop", ratio=theirs_seconds / ours, ours=ours,
        reference=theirs_seconds, **common,
    )  # fmt: skip
