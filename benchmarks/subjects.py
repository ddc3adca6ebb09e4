"""What is measured: ours as the pipeline sets it up, and the reference as its authors do, on the same model and images.

Both get the pipeline's ``keep_freed`` where they share a process, which the reference would not have by itself.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from measure import Asked
from reference_sre2l import Look, RecoverSettings, Recovery
from torch import Tensor, nn

from teddy_ray import models
from teddy_ray.method import views
from teddy_ray.method.compiling import can_compile
from teddy_ray.method.matching import Teacher, Weights
from teddy_ray.method.optimisation import gains_by_winograd, has_bfloat16, place
from teddy_ray.method.pixels import Pixels
from teddy_ray.method.synthesis import Settings, Synthesis
from teddy_ray.method.training import LabelledViews, TrainingRecipe

PIXELS = Pixels((0.480, 0.448, 0.398), (0.277, 0.269, 0.282))
"""Tiny-ImageNet's."""
CLASSES = 10
SRE2L = RecoverSettings()


def look(size: int) -> Look:
    return Look(size, PIXELS.mean, PIXELS.std)


def network(asked: Asked, size: int, *, arch: str = "resnet18", seed: int = 0) -> nn.Module:
    """As built: the reference's memory order. Under 96 pixels a ResNet has the 3x3 stem."""
    return models.build("convnet" if asked.tiny else arch, CLASSES, size, seed=seed).to(asked.device)


def placed(model: nn.Module, asked: Asked) -> nn.Module:
    """A copy as the pipeline places it."""
    return place(deepcopy(model), next(model.parameters()).device, winograd=winograd(asked))


def labels(count: int, asked: Asked) -> Tensor:
    return torch.arange(count, device=asked.device) % CLASSES


def bfloat16(asked: Asked) -> bool:
    """As the spec's precision = auto decides, unless float32 is asked for."""
    return has_bfloat16(asked.device) and not asked.float32


def winograd(asked: Asked) -> bool:
    """As the spec's convolutions = auto decides."""
    return gains_by_winograd(asked.device, bfloat16=bfloat16(asked)) and can_compile(asked.device)


def dtype(asked: Asked) -> torch.dtype:
    return torch.bfloat16 if bfloat16(asked) else torch.float32


def pictures(count: int, size: int, *, seed: int = 0) -> Tensor:
    """uint8 (N, 3, H, W): noise, which costs what photographs cost once it is decoded."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def synthesis(asked: Asked, pool: list[nn.Module], *, batch: int, size: int, models_per_step: int = 1) -> Synthesis:
    """A unit of ours with the weights and learning rate of SRe2L's recipe, but a crop for every image."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(batch, 3, size, size, generator=generator).to(asked.device)
    settings = Settings(
        iterations=SRE2L.iterations,
        models_per_step=models_per_step,
        optimizer="adam",
        lr=SRE2L.lr,
        betas=(0.5, 0.9),
        weights=Weights(statistics=1.0, classification=1.0 / SRE2L.r_bn, first_layer=SRE2L.first_bn_multiplier),
        crop_scale=SRE2L.crop_scale,
        shared_crop=False,
        bfloat16=bfloat16(asked),
        compiled=asked.compiled,
    )
    return Synthesis(
        start,
        labels(batch, asked),
        images_B=torch.arange(batch),
        teachers=[Teacher(placed(model, asked), start[:2]) for model in pool],
        settings=settings,
        pixels=PIXELS,
        flip=True,
        seed=0,
        unit="c0000-s0000",
    )


def recovery(asked: Asked, model: nn.Module, *, batch: int, size: int) -> Recovery:
    return Recovery(deepcopy(model), labels(batch, asked), look=look(size), settings=SRE2L, seed=0)


def recipe(asked: Asked, *, epochs: float, optimizer: str, lr: float, temperature: float = 1.0) -> TrainingRecipe:
    return TrainingRecipe(
        epochs=epochs,
        optimizer=optimizer,
        lr=lr,
        weight_decay=0.01,
        bfloat16=bfloat16(asked),
        temperature=temperature,
    )


def geometry(image: Tensor, view: Tensor, count: int) -> views.Geometry:
    """The views of a run with SRe2L's crops and CutMix."""
    return views.draw(0, image, view, crop_scale=SRE2L.crop_scale, flip=True, cutmix=True, images=count)


def labelled(asked: Asked, images_N3HW: Tensor, *, count_of_views: int) -> LabelledViews:
    """A set with answers of noise."""
    count = len(images_N3HW)
    numbers = torch.arange(count)
    answers = torch.randn((count_of_views + 1) * count, CLASSES, device=asked.device)
    return LabelledViews(
        images=images_N3HW.to(asked.device),
        pixels=PIXELS,
        labels=labels(count, asked),
        classes=CLASSES,
        views=count_of_views,
        geometry=lambda view: geometry(numbers, torch.full_like(numbers, view), count).to(asked.device),
        answers=lambda view, image, _: answers[view * count + image],
    )
