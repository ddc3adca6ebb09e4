"""evaluate: students trained on the synthetic set and on its controls, with equal labels, recipe and steps."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from teddy_ray.errors import WorldError
from teddy_ray.method.labels import ensemble
from teddy_ray.method.optimisation import precision, threads
from teddy_ray.method.randomness import seed_of
from teddy_ray.method.training import Answers, LabelledViews, Trainer, TrainingRecipe
from teddy_ray.method.views import Geometry
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.context import Context, Task
from teddy_ray.pipeline.imagesets import content_of, read
from teddy_ray.pipeline.stages import relabel
from teddy_ray.pipeline.stages.base import test_accuracy
from teddy_ray.store import labels as label_files
from teddy_ray.store import records
from teddy_ray.store.packed import Packed
from teddy_ray.store.records import Record

CURVE_POINTS = 5


def tasks(
    context: Context,
    sets: Mapping[str, Record],
    labels: Mapping[str, Sequence[Record]],
    labellers: Sequence[Record],
) -> list[Task]:
    """A task a student. Student seed s sees the s-th draw of random real images; the other sets are one each. The
    ``labellers`` are asked where there are no ``labels``."""
    spec, result = context.spec.evaluate, []
    asked = [] if context.spec.relabel.store else labellers
    heard = [addresses.asked_labels(context.spec, [record.digest for record in asked])] if asked else []
    for (name, images), student, regime, seed in product(sets.items(), spec.students, spec.regimes, range(spec.seeds)):
        if name.startswith("random-") and name != f"random-{seed}":
            continue
        shards = labels[name]
        job = (student, regime, seed)
        digest = addresses.student(
            context.spec, context.real.digest, content_of(images), [*map(content_of, shards), *heard], job
        )
        inputs = {
            "set": name.split("-")[0],
            "student": student,
            "regime": regime,
            "seed": seed,
            "images": images.digest,
            "labels": [shard.digest for shard in shards],
            "labellers": [(record.stage, record.digest) for record in asked],
        }
        result.append(Task("student", digest, f"{name}-{student}-{regime}-{seed}", inputs))
    return result


def work(context: Context, task: Task) -> None:
    """One student, from its first weights to its accuracy after the last epoch."""
    started = time.monotonic()
    spec, inputs = context.spec.evaluate, task.inputs
    labelled = _labelled(context, task)
    steps = -(-len(labelled.images) // spec.batch_size)
    seed = seed_of(context.spec.seed, "student", inputs["seed"])
    with threads(spec.threads):
        model = context.place(context.new_model(inputs["student"], seed=seed))
        trainer = Trainer(model, _recipe(context, inputs["regime"]), steps_per_epoch=steps)
        curve = []
        for epoch in context.watched(range(spec.epochs), "evaluate", task.name, 0, spec.epochs):
            loss = trainer.epoch(
                labelled.batches(
                    regime=inputs["regime"],
                    epoch=epoch,
                    batch_size=spec.batch_size,
                    temperature=trainer.recipe.temperature,
                    seed=seed,
                )
            )
            if (epoch + 1) % max(1, spec.epochs // CURVE_POINTS) == 0 or epoch + 1 == spec.epochs:
                curve.append({"epoch": epoch + 1, "loss": loss, "accuracy": test_accuracy(context, model)})
    if not all(torch.isfinite(torch.tensor(point["loss"])) for point in curve):
        raise WorldError(f"the loss of student {task.name} is not finite: lower evaluate.lr (now {spec.lr:g})")
    meta = {
        **{name: inputs[name] for name in ("set", "student", "regime", "seed")},
        "accuracy": curve[-1]["accuracy"],
        "curve": curve,
        "steps": trainer.step,
        "seconds": time.monotonic() - started,
    }
    records.commit(context.store, "student", task.digest, {}, meta)


def _recipe(context: Context, regime: str) -> TrainingRecipe:
    spec = context.spec.evaluate
    return TrainingRecipe(
        epochs=spec.epochs,
        optimizer=spec.optimizer,
        lr=spec.lr,
        lr_end=spec.lr_end,
        weight_decay=spec.weight_decay,
        # A hard label has no temperature.
        temperature=1.0 if regime == "hard" else spec.temperature,
        bfloat16=context.bfloat16,
    )


def _labelled(context: Context, task: Task) -> LabelledViews:
    pictures, classes = read(context, context.record("images", task.inputs["images"]))
    device, numbers = context.device, torch.arange(len(pictures))

    def geometry(view: int) -> Geometry:
        return relabel.geometry(context, numbers, torch.full_like(numbers, view), len(numbers)).to(device)

    return LabelledViews(
        images=pictures.to(device),
        pixels=context.real.pixels,
        labels=classes.to(device),
        classes=context.real.classes,
        views=context.label_views,
        geometry=geometry,
        answers=_stored(context, task, len(pictures)) if task.inputs["labels"] else _asked(context, task),
        mirror=context.spec.evaluate.mirror_repeats and context.real.flip,
    )


def _stored(context: Context, task: Task, images: int) -> Answers:
    """What the labellers have said, unpacked batch by batch. Only the files that have the view in question are held,
    so that memory does not grow with the number of views."""
    shards = defaultdict(list)
    for digest in task.inputs["labels"]:
        record = context.record("labels", digest)
        shards[record.meta["first_view"]].append(record.files["labels.parquet"])

    @lru_cache(maxsize=1)
    def packed(first_view: int) -> Packed:
        parts = [label_files.from_parquet(records.read(context.store, file)) for file in shards[first_view]]
        return label_files.joined(parts, first_view=first_view).answers.to(context.device)

    def answers(view: int, image: Tensor, _shown: Tensor) -> Tensor:
        first = max(first for first in shards if first <= view)
        return packed(first).logits((view - first) * images + image)

    return answers


def _asked(context: Context, task: Task) -> Answers:
    """What the labellers say now."""
    labellers = [context.model(context.record(stage, digest)) for stage, digest in task.inputs["labellers"]]

    def answers(_view: int, _image: Tensor, shown: Tensor) -> Tensor:
        with precision(context.device, bfloat16=context.bfloat16):
            return ensemble(labellers, shown, average=context.spec.relabel.ensemble)

    return answers
