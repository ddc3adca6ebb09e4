"""What a run will make and cost, before it is made: counts from the spec and the data, seconds from a step of each kind
that is timed here and now. Nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil
from typing import Any

import torch

from teddy_ray import data, models
from teddy_ray.method import initial
from teddy_ray.method.matching import Teacher, Weights
from teddy_ray.method.pixels import Pixels
from teddy_ray.method.synthesis import Settings, Synthesis
from teddy_ray.method.training import Trainer, TrainingRecipe
from teddy_ray.pipeline.context import RealData, place, threads
from teddy_ray.pipeline.stages.data import refuse_impossible
from teddy_ray.pipeline.units import units
from teddy_ray.spec import Spec

LABEL_ROW_BYTES = 53
"""A soft label's numbers beside its logits: two int64, nine float32 and a bool, uncompressed (an upper bound)."""
Plan = dict[str, Any]


def plan(spec: Spec) -> Plan:
    """Counts, steps and bytes of a settled spec; ``seconds`` of worker time a stage, timed here. Raises UserError."""
    real = _real(spec)
    refuse_impossible(spec, real)
    classes, ipc, evaluate = real.classes, spec.distill.ipc, spec.evaluate
    images = classes * ipc
    sets = 1 + evaluate.seeds * ("random" in evaluate.controls) + ("coreset" in evaluate.controls)
    jobs = len(evaluate.students) * len(evaluate.regimes) * evaluate.seeds * (1 + len(evaluate.controls))
    members = 0 if spec.pool.kind == "none" else len(spec.pool.epochs or ()) or spec.pool.size
    label_rows = images * (spec.relabel.views + 1)
    all_units = units(classes, spec.distill)
    batches = max(1, len(real.train_labels) // spec.base.batch_size)
    steps = {
        "base": 0 if spec.base.checkpoint else spec.base.epochs * batches,
        "distill": len(all_units) * spec.distill.iterations,
        "evaluate": jobs * evaluate.epochs * ceil(images / evaluate.batch_size),
    }
    return {
        "classes": classes,
        "images": images,
        "units": len(all_units),
        "members": members,
        "students": jobs,
        "label_rows": label_rows,
        "label_bytes": label_rows * (2 * classes + LABEL_ROW_BYTES),
        "steps": steps,
        "seconds": {stage: round(steps[stage] * cost, 1) for stage, cost in _step_seconds(spec, real, images).items()},
        "notes": [
            f"{sets} image sets are labelled, the synthetic one and its controls",
            "seconds are worker time, from steps timed just now on this machine; what the store has costs nothing",
        ],
    }


def _real(spec: Spec) -> RealData:
    dataset = data.load(spec.data)
    return RealData(
        dataset.train.images,
        dataset.train.labels,
        dataset.test.images,
        dataset.test.labels,
        class_names=dataset.class_names,
        flip=dataset.flip,
        skipped=dataset.skipped,
        pixels=Pixels.of(dataset.train.images),
        digest="",
    )


def _step_seconds(spec: Spec, real: RealData, images: int) -> dict[str, float]:
    """What one step of each kind takes here."""
    batch = min(spec.base.batch_size, len(real.train_labels))
    with threads(spec.base.threads):
        base = _training_step(spec, real, spec.base.arch, batch)
    with threads(spec.evaluate.threads):
        sizes = min(spec.evaluate.batch_size, images)
        students = [_training_step(spec, real, arch, sizes) for arch in spec.evaluate.students]
    with threads(spec.distill.threads):
        distill = _synthesis_step(spec, real) if spec.distill.iterations else 0.0
    return {"base": base, "distill": distill, "evaluate": sum(students) / len(students)}


def _training_step(spec: Spec, real: RealData, arch: str, batch: int) -> float:
    device = torch.device(spec.compute.device)
    recipe = TrainingRecipe(
        epochs=1, optimizer="sgd", lr=1e-3, weight_decay=0.0, bfloat16=spec.compute.precision == "bfloat16"
    )
    model = place(models.build(arch, real.classes, real.size[0]), device)
    trainer = Trainer(model, recipe, steps_per_epoch=1)
    targets = torch.full((batch, real.classes), 1 / real.classes, device=device)
    images = torch.randn(batch, 3, *real.size, device=device)
    return _timed(lambda: trainer.epoch([(images, targets)]))


def _synthesis_step(spec: Spec, real: RealData) -> float:
    device, part = torch.device(spec.compute.device), spec.distill
    unit = units(real.classes, part)[0]
    numbers = torch.tensor(unit.images(real.classes))
    start = initial.noise(numbers, real.size, seed=0).to(device)
    model = place(models.build(spec.base.arch, real.classes, real.size[0]), device)
    synthesis = Synthesis(
        start,
        torch.tensor([class_ for class_, _ in unit.class_slots], device=device),
        images_B=numbers,
        teachers=[Teacher(model, start[:2])],
        settings=Settings(
            iterations=part.iterations,
            models_per_step=1,
            optimizer=part.optimizer,
            lr=part.lr,
            betas=part.betas,
            weights=Weights(),
            crop_scale=part.crop_scale,
            shared_crop=part.shared_crop,
            bfloat16=spec.compute.precision == "bfloat16",
        ),
        pixels=real.pixels,
        flip=real.flip,
        seed=0,
        unit=unit.name,
    )
    return part.models_per_step * _timed(lambda: float(synthesis.step().total))


def _timed(step: Callable[[], float]) -> float:
    """The faster of two, after one to warm up; each reads its loss, and so waits for the device."""
    step()
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
