"""How much arithmetic a step is, counted by torch while it looks at images that have no numbers in them.

flops("match", "resnet18", classes=1000, size=224) * batch
"""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from teddy_ray import models
from teddy_ray.pipeline.counts import Step

PASSES: Final[dict[Step, int]] = {"look": 1, "match": 2, "train": 3}
"""Forward; back to the images; back to the weights too. Each is as much arithmetic as the first (torch's own count of a
depthwise convolution's backward pass is far too high)."""


@cache
def flops(step: Step, arch: str, *, classes: int, size: int) -> float:
    """Floating-point operations of a step for each image of its batch: a multiplication and an addition are two."""
    with torch.device("meta"):
        model = models.build(arch, classes, size).eval()
        image = torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return float(PASSES[step] * counter.get_total_flops())
