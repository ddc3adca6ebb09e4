"""pool: weak models made from the base. prior: early checkpoints, as they are. post: pruned copies, fine-tuned."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain, islice

from torch import nn

from teddy_ray import models
from teddy_ray.method.optimisation import precision, threads
from teddy_ray.method.pool import choose_checkpoints
from teddy_ray.method.randomness import permutation, seed_of
from teddy_ray.method.statistics import estimate_again
from teddy_ray.method.training import Trainer
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.context import Context, Task, weights
from teddy_ray.pipeline.stages import base as base_stage
from teddy_ray.store import records, tensors
from teddy_ray.store.records import Record


def tasks(context: Context, base: Record) -> list[Task]:
    """A task a member. A prior member is a checkpoint's own record, and so always there already."""
    pool = context.spec.pool
    if pool.kind == "none":
        return []
    if pool.kind == "prior":
        accuracies = [point["train_accuracy"] for point in base.meta["curve"]]
        epochs = pool.epochs or choose_checkpoints(accuracies, size=pool.size, band=pool.accuracy_band)
        return [
            Task("checkpoint", addresses.checkpoint(base.digest, epoch), f"prior-epoch-{epoch:04d}") for epoch in epochs
        ]
    return [
        Task(
            "member",
            addresses.pruned_member(context.spec, base.digest, index),
            f"post-{index:04d}",
            {
                "index": index,
                "base": base.digest,
            },
        )
        for index in range(pool.size)
    ]


def chosen(which: str, base: Record, pool: Sequence[Record]) -> list[Record]:
    """The models that "pool", "base" or "both" name."""
    return {"pool": [*pool], "base": [base], "both": [*pool, base]}[which]


def work(context: Context, task: Task) -> None:
    """One post member: prune the base, fine-tune for a moment, estimate the BatchNorm statistics anew."""
    started = time.monotonic()
    pool, real = context.spec.pool, context.real
    seed = seed_of(context.spec.base.seed, "member", task.inputs["index"])
    with threads(context.spec.base.threads):
        base = context.fresh_model(context.record("base", task.inputs["base"]))
        model = context.place(
            models.prune(base, real.size[0], ratio=pool.pruning_ratio, noise=pool.pruning_noise, seed=seed)
        )
        _finetune(context, task, model, seed)
        sample = permutation(len(real.train_labels), seed, "statistics")[: pool.statistics_images]
        if len(sample):
            with precision(context.device, bfloat16=context.bfloat16):
                batches = real.train_images[sample].split(context.spec.base.batch_size)
                estimate_again(model, (real.pixels.normalise(images.to(context.device)) for images in batches))
        meta = {
            "name": task.name,
            "kind": "post",
            "arch": context.spec.base.arch,
            "accuracy": base_stage.test_accuracy(context, model),
            "parameters": models.parameters(model),
            "seconds": time.monotonic() - started,
        }
    files = {"weights.safetensors": tensors.to_bytes(weights(model))}
    records.commit(context.store, "member", task.digest, files, meta)


def _finetune(context: Context, task: Task, model: nn.Module, seed: int) -> None:
    pool, steps = context.spec.pool, base_stage.steps_per_epoch(context)
    total = round(pool.finetune_epochs * steps)
    if total == 0:
        return
    how = base_stage.recipe(context, epochs=pool.finetune_epochs, lr=pool.finetune_lr, warmup_epochs=0.0)
    trainer = Trainer(model, how, steps_per_epoch=steps)
    epochs = (base_stage.epoch_batches(context, epoch, seed=seed) for epoch in range(total // steps + 1))

    batches = islice(chain.from_iterable(epochs), total)
    trainer.epoch(context.watched(batches, "pool", task.name, 0, total))
