"""What a stage's work is given: the spec, the store, a device, and somewhere to say how far it is.

A worker anywhere makes its own Context from the spec's text and the store's address; real data and models are read once
a process.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from teddy_ray import models
from teddy_ray.method.optimisation import place
from teddy_ray.method.pixels import Pixels
from teddy_ray.method.statistics import frozen
from teddy_ray.pipeline.counts import label_views
from teddy_ray.pipeline.events import Emit, Stage, event
from teddy_ray.spec import Spec
from teddy_ray.store import records, tensors
from teddy_ray.store.base import Store
from teddy_ray.store.records import Record

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """One independent piece of a stage: done when ``records`` has (stage, digest).

    ``begun``: there may be something of it in the store already; whoever takes it looks, which costs requests.
    """

    stage: str
    digest: str
    name: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    begun: bool = True


@dataclass(frozen=True)
class RealData:
    """The real dataset as every stage reads it: uint8 images (N, 3, H, W), labels (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    flip: bool
    skipped: int
    pixels: Pixels
    digest: str

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def size(self) -> tuple[int, int]:
        return int(self.train_images.shape[2]), int(self.train_images.shape[3])


@dataclass
class Context:
    """A worker's view of the run. ``rank`` of ``replicas`` matters to data-parallel training alone."""

    spec: Spec
    store: Store
    emit: Emit
    data_digest: str = ""
    rank: int = 0
    replicas: int = 1
    device_name: str = ""
    """What the workers' device is called; for the driver alone."""
    class_means: dict[tuple[str, range], Tensor] = field(default_factory=dict)
    """By a model's digest and a block of classes: what distill has made of them in this process."""
    _models: dict[str, nn.Module] = field(default_factory=dict)
    _last_said: float = 0.0

    @property
    def device(self) -> torch.device:
        return torch.device(self.spec.compute.device)

    @property
    def bfloat16(self) -> bool:
        return self.spec.compute.precision == "bfloat16"

    @property
    def label_views(self) -> int:
        """How many augmented views of each image are labelled."""
        return label_views(self.spec, self.real.classes)

    @cached_property
    def real(self) -> RealData:
        """The real dataset, from the data stage's record."""
        record = self.record("data", self.data_digest)
        stored = self.tensors(record, "dataset.safetensors")
        meta = record.meta
        return RealData(
            **stored,
            class_names=tuple(meta["class_names"]),
            flip=meta["flip"],
            skipped=meta["skipped"],
            pixels=Pixels(tuple(meta["mean"]), tuple(meta["std"])),
            digest=meta["content"],
        )

    def record(self, stage: str, digest: str) -> Record:
        """A record that an earlier stage has committed."""
        record = records.find(self.store, stage, digest)
        if record is None:
            raise LookupError(f"no record of {stage} {digest}: an earlier stage should have made it")
        return record

    def tensors(self, record: Record, name: str) -> dict[str, Tensor]:
        """One safetensors file of a record, verified and memory-mapped."""
        return tensors.open_mapped(records.path(self.store, record.files[name]))

    def model(self, record: Record) -> nn.Module:
        """A base model or member, frozen, in evaluation mode, on the device; kept for the next task."""
        if record.digest not in self._models:
            self._models[record.digest] = frozen(self.place(self.fresh_model(record)))
        return self._models[record.digest]

    def fresh_model(self, record: Record) -> nn.Module:
        """Like ``model``, but as it is built, on the CPU, and the caller's own, to be pruned."""
        state = self.tensors(record, "weights.safetensors")
        return models.fit_to_state(self.new_model(record.meta["arch"], seed=0), state)

    def new_model(self, arch: str, *, seed: int) -> nn.Module:
        """An untrained model for this dataset."""
        return models.build(arch, self.real.classes, self.real.size[0], seed=seed)

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the run's device, as it is fastest there."""
        return place(model, self.device, winograd=self.spec.compute.convolutions == "winograd")

    def progress(self, stage: Stage, task: str, done: int, total: int, **values: float) -> None:
        """Say how far a task is."""
        self._last_said = time.monotonic()
        self.emit(event("progress", stage, task=task, done=done, total=total, values=values))

    def due(self) -> bool:
        """Whether this worker has been silent for a second. Ask before reading a loss from the device."""
        return self.rank == 0 and time.monotonic() - self._last_said >= 1.0

    def watched(self, steps: Iterable[T], stage: Stage, task: str, done: int, total: int) -> Iterator[T]:
        """The same steps, with progress said along the way: the first is number ``done`` of ``total``."""
        for number, step in enumerate(steps):
            if self.due():
                self.progress(stage, task, done + number, total)
            yield step


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict as it is stored: on the CPU, in plain memory order."""
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
