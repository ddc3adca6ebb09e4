"""The images that a unit starts from, and the real images that stand beside it as controls.

An image has a class and a slot (0 … IPC - 1); what it starts from depends on (seed, class, slot) and not on the IPC, so
that IPC 50 begins with the images of IPC 10.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from teddy_ray.method import views
from teddy_ray.method.pixels import Pixels
from teddy_ray.method.randomness import normal, permutation

Logits = Callable[[Tensor], Tensor]
"""Normalised images (B, 3, H, W) -> logits (B, K)."""


def noise(images_B: Tensor, size: tuple[int, int], *, seed: int) -> Tensor:
    """Standard normal starts (B, 3, H, W), float32, normalised: SRe2L's."""
    channel, row, column = (torch.arange(count, device=images_B.device) for count in (3, *size))
    image = images_B[:, None, None, None]
    return normal(seed, "noise", image, channel[:, None, None], row[:, None], column).float()


def random_real(labels_N: Tensor, class_slots: list[tuple[int, int]], *, seed: int) -> Tensor:
    """Rows of real images (int64), one for each (class, slot): a random one of its class, none twice."""
    shuffled = _shuffled(labels_N, class_slots, seed)
    return torch.stack([shuffled[class_][slot] for class_, slot in class_slots])


def real_patches(
    images_N3HW: Tensor,
    labels_N: Tensor,
    class_slots: list[tuple[int, int]],
    *,
    logits: Logits,
    pixels: Pixels,
    device: torch.device,
    candidates: int,
    crop_scale: float,
    seed: int,
) -> Tensor:
    """For each (class, slot), of ``candidates`` crops of random real images of the class the one that the base model
    finds easiest (RDED, Sun et al. 2024, with one patch an image). uint8 (B, 3, H, W)."""
    shuffled, chosen = _shuffled(labels_N, class_slots, seed), []
    for class_, slot in class_slots:
        order = shuffled[class_]
        rows = order[torch.arange(slot * candidates, (slot + 1) * candidates) % len(order)]
        patches = _crops(
            pixels.normalise(images_N3HW[rows].to(device)), rows, view=slot + 1, crop_scale=crop_scale, seed=seed
        )
        with torch.no_grad():
            target = torch.full((candidates,), class_, device=device)
            difficulty = functional.cross_entropy(logits(patches), target, reduction="none")
        chosen.append(patches[difficulty.argmin()])
    return pixels.quantise(torch.stack(chosen))


def coreset(difficulty_N: Tensor, labels_N: Tensor, *, ipc: int, quantile: float) -> Tensor:
    """Rows (int64, slot by slot, class by class) of the ``ipc`` real images of each class around a quantile of its
    difficulty: 0 is the easiest, 1 the hardest. After CAD-Prune (arXiv 2604.18811)."""
    columns = []
    for class_ in range(int(labels_N.max()) + 1):
        members = _of_class(labels_N, class_)
        by_difficulty = members[torch.argsort(difficulty_N[members], stable=True)]
        start = round(quantile * (len(members) - ipc))
        columns.append(by_difficulty[start : start + ipc])
    return torch.stack(columns, dim=1).reshape(-1)


def _of_class(labels_N: Tensor, class_: int) -> Tensor:
    return torch.nonzero(labels_N == class_).squeeze(1)


def _shuffled(labels_N: Tensor, class_slots: list[tuple[int, int]], seed: int) -> dict[int, Tensor]:
    """Each class's rows, in the order in which its slots take them."""
    rows = {class_: _of_class(labels_N, class_) for class_ in dict.fromkeys(class_ for class_, _ in class_slots)}
    return {class_: members[permutation(len(members), seed, "real", class_)] for class_, members in rows.items()}


def _crops(images_BCHW: Tensor, rows_B: Tensor, *, view: int, crop_scale: float, seed: int) -> Tensor:
    """One crop of each image; never mirrored, since a patch is to be real."""
    view_B, count = torch.full_like(rows_B, view), len(rows_B)
    geometry = views.draw(seed, rows_B, view_B, crop_scale=crop_scale, flip=False, cutmix=False, images=count)
    return views.crop(images_BCHW, geometry.to(images_BCHW.device))
