"""base: one network trained on the real data, with a checkpoint committed every epoch; or one that was handed in."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from teddy_ray import models
from teddy_ray.errors import UserError, WorldError
from teddy_ray.method.optimisation import threads
from teddy_ray.method.randomness import permutation
from teddy_ray.method.training import Batch, Trainer, TrainingRecipe, accuracy, logits_of, real_batches
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.context import Context, Task, weights
from teddy_ray.store import checkpoints, records, tensors
from teddy_ray.store.records import Record

TRAIN_ACCURACY_IMAGES = 250
"""Training images on which a checkpoint's accuracy is measured: members are chosen by it, never by the test set."""


def tasks(context: Context) -> list[Task]:
    """One: the base model."""
    checkpoint = context.spec.base.checkpoint
    digest = addresses.base(context.spec, context.real.digest, _sha256(checkpoint) if checkpoint else None)
    return [Task("base", digest, "train" if checkpoint is None else "load")]


def work(context: Context, task: Task) -> None:
    """Train, or load, and commit."""
    with threads(context.spec.base.threads):
        if context.spec.base.checkpoint is None:
            _train(context, task)
        else:
            _load(context, task, context.spec.base.checkpoint)


def checkpoint_records(context: Context, base: Record) -> list[Record]:
    """The base's checkpoints, epoch by epoch; none where the base was handed in."""
    epochs = len(base.meta["curve"])
    return [context.record("checkpoint", addresses.checkpoint(base.digest, epoch + 1)) for epoch in range(epochs)]


def checkpoint_tasks(context: Context, task: Task) -> list[Task]:
    """The checkpoints that training the base makes on its way, an epoch each; after a stop it goes on from them."""
    epochs = context.spec.base.epochs if context.spec.base.checkpoint is None else 0
    return [
        Task("checkpoint", addresses.checkpoint(task.digest, n + 1), f"prior-epoch-{n + 1:04d}") for n in range(epochs)
    ]


def recipe(context: Context, *, epochs: float, lr: float, warmup_epochs: float) -> TrainingRecipe:
    """How models are trained on this run's real data."""
    base = context.spec.base
    return TrainingRecipe(
        epochs=epochs,
        optimizer=base.optimizer,
        lr=lr,
        weight_decay=base.weight_decay,
        warmup_epochs=warmup_epochs,
        label_smoothing=base.label_smoothing,
        bfloat16=context.bfloat16,
    )


def epoch_batches(context: Context, epoch: int, *, seed: int) -> Iterator[Batch]:
    """One epoch of the real training images, as this run's base sees them."""
    base, real = context.spec.base, context.real
    return real_batches(
        real.train_images,
        real.train_labels,
        classes=real.classes,
        batch_size=base.batch_size,
        epoch=epoch,
        crop_scale=base.crop_scale,
        flip=real.flip,
        pixels=real.pixels,
        seed=seed,
        device=context.device,
        rank=context.rank,
        replicas=context.replicas,
    )


def steps_per_epoch(context: Context) -> int:
    return max(1, len(context.real.train_labels) // context.spec.base.batch_size)


def test_accuracy(context: Context, model: nn.Module) -> float:
    """Top-1 on the real test set, in points."""
    return _accuracy(context, model, context.real.test_images, context.real.test_labels)


def _train(context: Context, task: Task) -> None:
    spec, steps = context.spec.base, steps_per_epoch(context)
    model = context.place(context.new_model(spec.arch, seed=spec.seed))
    replica = nn.parallel.DistributedDataParallel(model) if context.replicas > 1 else model
    how = recipe(context, epochs=spec.epochs, lr=spec.lr, warmup_epochs=spec.warmup_epochs)
    trainer = Trainer(replica, how, steps_per_epoch=steps)
    resume = addresses.resume_key("base", task.digest)
    curve: list[dict[str, float]] = _resume(context, task, resume, model, trainer)
    for epoch in range(len(curve), spec.epochs):
        started = time.monotonic()
        batches = epoch_batches(context, epoch, seed=spec.seed)
        loss = trainer.epoch(context.watched(batches, "base", task.name, epoch * steps, spec.epochs * steps))
        if not torch.isfinite(torch.tensor(loss)):
            raise WorldError(f"the base's loss became {loss} in epoch {epoch + 1}: lower base.lr (now {spec.lr:g})")
        if context.rank == 0:
            curve.append(_commit_epoch(context, task, model, epoch=epoch + 1, loss=loss, started=started))
            checkpoints.save(context.store, resume, weights(model) | _prefixed(trainer.state()))
    if context.rank == 0:
        _commit(context, task, model, curve)
        checkpoints.remove(context.store, resume)


def _load(context: Context, task: Task, path: str) -> None:
    model = models.fit_to_state(context.new_model(context.spec.base.arch, seed=0), models.load_state(Path(path)))
    _commit(context, task, context.place(model), [])


def _resume(context: Context, task: Task, key: str, model: nn.Module, trainer: Trainer) -> list[dict[str, float]]:
    """Put model and trainer where the last finished epoch left them; the curve so far."""
    state = _checkpoint(context, key) if task.begun else None
    if state is None:
        return []
    trainer.load_state({name[len("trainer.") :]: value for name, value in state.items() if name.startswith("trainer.")})
    model.load_state_dict({name: value for name, value in state.items() if not name.startswith("trainer.")})
    epochs = trainer.step // trainer.steps_per_epoch
    found = [context.record("checkpoint", addresses.checkpoint(task.digest, epoch + 1)) for epoch in range(epochs)]
    return [_point(record) for record in found]


def _checkpoint(context: Context, key: str) -> dict[str, Tensor] | None:
    """The last saved state, the same one for all replicas: another run of this base may just be replacing it."""
    while True:
        state = checkpoints.load(context.store, key)
        if context.replicas == 1:
            return state
        step = state["trainer.step"].to(context.device) if state else torch.tensor(0, device=context.device)
        steps = [torch.empty_like(step) for _ in range(context.replicas)]
        distributed.all_gather(steps, step)
        if all(other == step for other in steps):
            return state


def _commit_epoch(
    context: Context, task: Task, model: nn.Module, *, epoch: int, loss: float, started: float
) -> dict[str, float]:
    real = context.real
    sample = permutation(len(real.train_labels), "train accuracy")[:TRAIN_ACCURACY_IMAGES]
    meta: dict[str, Any] = {
        "name": f"prior-epoch-{epoch:04d}",
        "kind": "prior",
        "arch": context.spec.base.arch,
        "epoch": epoch,
        "loss": loss,
        "accuracy": test_accuracy(context, model),
        "train_accuracy": _accuracy(context, model, real.train_images[sample], real.train_labels[sample]),
        "parameters": models.parameters(model),
        "seconds": time.monotonic() - started,
    }
    files = {"weights.safetensors": tensors.to_bytes(weights(model))}
    digest = addresses.checkpoint(task.digest, epoch)
    record = records.commit(context.store, "checkpoint", digest, files, meta)
    steps = steps_per_epoch(context)
    done, total = epoch * steps, context.spec.base.epochs * steps
    context.progress("base", task.name, done, total, loss=loss, accuracy=meta["accuracy"])
    return _point(record)


def _commit(context: Context, task: Task, model: nn.Module, curve: list[dict[str, float]]) -> None:
    spec = context.spec.base
    meta = {
        "name": "base",
        "kind": "base",
        "arch": spec.arch,
        "accuracy": curve[-1]["accuracy"] if curve else test_accuracy(context, model),
        "parameters": models.parameters(model),
        "curve": curve,
        "steps": len(curve) * steps_per_epoch(context),
        "seconds": sum(point["seconds"] for point in curve),
    }
    records.commit(context.store, "base", task.digest, {"weights.safetensors": tensors.to_bytes(weights(model))}, meta)


def _accuracy(context: Context, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    logits = logits_of(model, images, pixels=context.real.pixels, bfloat16=context.bfloat16, device=context.device)
    return accuracy(logits, labels)


def _point(record: Record) -> dict[str, float]:
    return {name: record.meta[name] for name in ("epoch", "loss", "accuracy", "train_accuracy", "seconds")}


def _prefixed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"trainer.{name}": value for name, value in state.items()}


def _sha256(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"base.checkpoint = '{path}' cannot be read: {error.strerror}; give a state dict's path"
        ) from error
