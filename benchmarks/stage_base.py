"""Training the base: how much of an epoch is spent outside the model, how far it is from the roofline, and how far
ahead of the reference's loop, whose images torchvision crops one at a time. ResNet-18, 64x64, crops and mirrors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial

import reference_sre2l as reference
import roofline
import subjects
import torch
from measure import Asked, Seconds, by_turns, cores, median
from tables import Row
from torch import Tensor, nn

from teddy_ray.method.optimisation import threads
from teddy_ray.method.training import Batch, Trainer, real_batches

SIZE, CROP_SCALE, LR = 64, 0.5, 0.01
LOADERS = 8
"""Processes that the reference's DataLoader has on a GPU machine; on two cores it has none."""


def rows(asked: Asked) -> Iterator[Row]:
    """Shares of an epoch's time, and the epoch over the reference's."""
    batch, steps = asked.size(128 if asked.cuda else 32, 4), asked.size(40 if asked.cuda else 2, 2)
    repeats = asked.size(7 if asked.cuda else 3, 2)
    images, model = subjects.pictures(batch * steps, SIZE), subjects.network(asked, SIZE)
    trainer = _trainer(asked, model, steps)
    squeeze = _squeeze(asked, images, model, batch)

    def whole() -> None:
        trainer.epoch(_batches(asked, images, batch, epoch=trainer.step // steps))

    def bare() -> None:
        trainer.epoch([ready] * steps)

    with threads(1):
        ready = next(_batches(asked, images, batch, epoch=0))
        of_epoch = by_turns(whole, bare, repeats=repeats, device=asked.device)
        of_loops = by_turns(whole, squeeze, repeats=repeats, device=asked.device)
        peaks = roofline.measured(asked.device, subjects.dtype(asked), tiny=asked.tiny)
    dtype = subjects.dtype(asked)
    work = roofline.asks("train", model, (batch, 3, SIZE, SIZE), element=dtype.itemsize)
    for row in _of_epoch(asked, of_epoch, of_loops, floor=steps * peaks.floor(work, dtype), batch=batch):
        yield replace(row, more=peaks.facts())


def _of_epoch(asked: Asked, of_epoch: Seconds, of_loops: Seconds, *, floor: float, batch: int) -> Iterator[Row]:
    (whole, bare), (ours, theirs) = map(median, of_epoch), map(median, of_loops)
    name, dtype = f"ResNet-18, 64x64, batch {batch}", str(subjects.dtype(asked)).removeprefix("torch.")
    row = partial(Row, part="base", unit="s", n=len(of_epoch.ours), threads=1)
    yield row(
        name=f"{name}: share of an epoch outside the model", ratio=1 - bare / whole, ours=whole, reference=bare,
        at_most=0.05,
    )  # fmt: skip
    yield row(
        name=f"{name}: an epoch over the {dtype} roofline's", ratio=whole / floor, ours=whole, reference=floor,
        at_most=1.3 if asked.cuda else None,
    )  # fmt: skip
    yield row(name=f"{name}: times as fast as the plain loop", ratio=theirs / ours, ours=ours, reference=theirs)


def _trainer(asked: Asked, model: nn.Module, steps: int) -> Trainer:
    how = subjects.recipe(asked, epochs=1000, optimizer="sgd", lr=LR)
    return Trainer(subjects.placed(model, asked), how, steps_per_epoch=steps)


def _labels(images: Tensor) -> Tensor:
    return torch.arange(len(images)) % subjects.CLASSES


def _batches(asked: Asked, images: Tensor, batch: int, *, epoch: int) -> Iterator[Batch]:
    return real_batches(
        images,
        _labels(images),
        classes=subjects.CLASSES,
        batch_size=batch,
        epoch=epoch,
        crop_scale=CROP_SCALE,
        flip=True,
        pixels=subjects.PIXELS,
        seed=0,
        device=asked.device,
    )


def _squeeze(asked: Asked, images: Tensor, model: nn.Module, batch: int) -> Callable[[], object]:
    """The reference's epoch, on a copy of the model."""
    return partial(
        reference.squeeze,
        deepcopy(model),
        reference.decoded(images),
        _labels(images).tolist(),
        look=subjects.look(SIZE),
        epochs=1,
        lr=LR,
        batch_size=batch,
        weight_decay=0.01,
        crop_scale=CROP_SCALE,
        seed=0,
        device=asked.device,
        loaders=min(LOADERS, cores()) if asked.cuda else 0,
    )
