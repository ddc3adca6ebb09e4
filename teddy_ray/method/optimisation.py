"""What every optimisation here shares: learning-rate schedules, how a model lies in memory, the precision of a forward
pass, CPU threads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from teddy_ray.method.winograd import with_winograd


def cosine(lr: float, step: float, steps: float, *, warmup: float = 0.0, end: float = 0.0) -> float:
    """Linear warm-up over ``warmup`` steps, then half a cosine from ``lr`` to ``end * lr``."""
    if step < warmup:
        return lr * (step + 1.0) / (warmup + 1.0)
    passed = (step - warmup) / max(steps - warmup, 1e-12)
    return lr * (end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * min(passed, 1.0))))


def precision(device: torch.device, *, bfloat16: bool) -> torch.autocast:
    """Convolutions and matrix products in bfloat16 or all in float32; weights and statistics stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is fast here. A CPU without its instructions emulates them, at half the speed of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def gains_by_winograd(device: torch.device, *, bfloat16: bool) -> bool:
    """Whether arithmetic is what bounds convolutions here: on a CPU, but in bfloat16 where AMX does it."""
    return device.type == "cpu" and not (bfloat16 and torch.cpu._is_amx_tile_supported())


def place(model: nn.Module, device: torch.device, *, winograd: bool = False) -> nn.Module:
    """The model on the device, in the memory order that its convolutions are fastest in, and with the convolutions
    that are: see method.winograd."""
    if winograd:
        with_winograd(model)
    if device.type == "cpu":
        layer: Any
        for layer in model.modules():
            if hasattr(layer, "inplace"):
                layer.inplace = False  # of bfloat16, an activation in place takes 2.6 times as long there
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with a fixed number of CPU threads: how sums are split among them changes their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
