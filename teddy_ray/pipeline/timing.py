"""What a step takes on this machine, from steps that are carried out here and now on images of noise.

They are not compiled, which would take longer than all of them: of work that is (``compute.compile``), an upper bound.

step_seconds(spec, works, facts)["train", "convnet", 50]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch

from teddy_ray import models
from teddy_ray.method import initial, views
from teddy_ray.method.matching import Teacher, Weights
from teddy_ray.method.optimisation import place, precision, threads
from teddy_ray.method.pixels import Pixels
from teddy_ray.method.statistics import frozen
from teddy_ray.method.synthesis import Settings, Synthesis
from teddy_ray.method.training import Trainer, TrainingRecipe
from teddy_ray.pipeline.counts import Facts, Step, Work
from teddy_ray.pipeline.units import units
from teddy_ray.spec import Spec

Key = tuple[Step, str, int]
PIXELS = Pixels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def step_seconds(spec: Spec, works: Iterable[Work], facts: Facts) -> dict[Key, float]:
    """Seconds of each kind of step in ``works`` on the settled spec's device, with its stage's threads."""
    found: dict[Key, float] = {}
    for work in works:
        key = (work.step, work.arch, work.batch)
        if key not in found:
            with threads(_threads(spec, work.stage)):
                found[key] = _STEPS[work.step](spec, work, facts)
    return found


def _threads(spec: Spec, stage: str) -> int:
    of = {
        "base": spec.base.threads,
        "pool": spec.base.threads,
        "distill": spec.distill.threads,
        "relabel": spec.relabel.threads,
        "evaluate": spec.evaluate.threads,
    }
    return of[stage]


def _train(spec: Spec, work: Work, facts: Facts) -> float:
    device = torch.device(spec.compute.device)
    recipe = TrainingRecipe(epochs=1, optimizer="sgd", lr=1e-3, weight_decay=0.0, bfloat16=_bfloat16(spec))
    trainer = Trainer(_model(spec, work, facts), recipe, steps_per_epoch=1)
    targets = torch.full((work.batch, facts.classes), 1 / facts.classes, device=device)
    images = _images(spec, work, facts)
    return _timed(lambda: trainer.epoch([(_seen(images), targets)]))


def _look(spec: Spec, work: Work, facts: Facts) -> float:
    model, images = frozen(_model(spec, work, facts)), _images(spec, work, facts)

    def step() -> float:
        with torch.no_grad(), precision(images.device, bfloat16=_bfloat16(spec)):
            return float(model(images).float().sum())

    return _timed(step)


def _match(spec: Spec, work: Work, facts: Facts) -> float:
    """With one model, its crop and its optimiser, as a unit takes it."""
    device, part = torch.device(spec.compute.device), spec.distill
    unit = units(facts.classes, part)[0]
    numbers = torch.tensor(unit.images(facts.classes))
    start = initial.noise(numbers, (facts.size, facts.size), seed=0).to(device)
    synthesis = Synthesis(
        start,
        torch.tensor([class_ for class_, _ in unit.class_slots], device=device),
        images_B=numbers,
        teachers=[Teacher(_model(spec, work, facts), start[:2])],
        settings=Settings(
            iterations=part.iterations,
            models_per_step=1,
            optimizer=part.optimizer,
            lr=part.lr,
            betas=part.betas,
            weights=Weights(),
            crop_scale=part.crop_scale,
            shared_crop=part.shared_crop,
            bfloat16=_bfloat16(spec),
        ),
        pixels=PIXELS,
        flip=False,
        seed=0,
        unit=unit.name,
    )
    return _timed(lambda: float(synthesis.step().total))


_STEPS: dict[Step, Callable[[Spec, Work, Facts], float]] = {"train": _train, "match": _match, "look": _look}


def _model(spec: Spec, work: Work, facts: Facts) -> torch.nn.Module:
    model = models.build(work.arch, facts.classes, facts.size)
    return place(model, torch.device(spec.compute.device), winograd=spec.compute.convolutions == "winograd")


def _images(spec: Spec, work: Work, facts: Facts) -> torch.Tensor:
    return torch.randn(work.batch, 3, facts.size, facts.size, device=spec.compute.device)


def _seen(images: torch.Tensor) -> torch.Tensor:
    """A view of each image, as training makes one anew for every step: of small images, no small part of it."""
    numbers = torch.arange(len(images))
    ones = torch.ones_like(numbers)
    geometry = views.draw(0, numbers, ones, crop_scale=0.5, flip=True, cutmix=False, images=len(images))
    return views.crop(images, geometry.to(images.device))


def _bfloat16(spec: Spec) -> bool:
    return spec.compute.precision == "bfloat16"


def _timed(step: Callable[[], float]) -> float:
    """The faster of two, after one to warm up; each reads its loss, and so waits for the device."""
    step()
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
