"""What BatchNorm sees: mean and variance, per channel, of the input of every BatchNorm layer (Eq. 7's f, at layer l)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Statistics = list[tuple[Tensor, Tensor]]
"""Per BatchNorm layer, in the order in which the layers run: mean (C,) and biased variance (C,), float32 or wider."""


def layers(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The model's BatchNorm layers, as they are registered."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def batch_statistics(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over batch and space. In float32 at least: bfloat16 cannot hold a sum of squares.

    Biased, as SRe2L's code has it, although PyTorch accumulates the unbiased one into running_var: the factor
    m / (m - 1), m = B·H·W, matters on 1x1 maps only (method.md 2.4, point 5).
    """
    wide = x_BCHW if x_BCHW.dtype == torch.float64 else x_BCHW.float()
    variance, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
    return mean, variance


class Recorder:
    """Collects batch statistics while its model runs: ``with Recorder(model) as seen: model(x); seen.statistics``."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.statistics: Statistics = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Recorder:
        self._handles = [layer.register_forward_pre_hook(self._record()) for layer in layers(self.model)]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _record(self) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.statistics.append(batch_statistics(inputs[0]))

        return hook


def running_statistics(model: nn.Module, x_BCHW: Tensor) -> Statistics:
    """RM and RV: what every layer has remembered of the real data, in the order in which the layers run on ``x``."""
    order: list[nn.BatchNorm2d] = []
    handles = [layer.register_forward_pre_hook(lambda module, _: order.append(module)) for layer in layers(model)]
    with torch.no_grad():
        model(x_BCHW)
    for handle in handles:
        handle.remove()
    return [(_buffer(layer.running_mean), _buffer(layer.running_var)) for layer in order]


@torch.no_grad()
def estimate_again(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace every layer's running statistics by the plain average over ``batches`` of real images (B, 3, H, W).

    For pruned members: the remembered statistics belong to channels that have lost their inputs.
    """
    for layer in layers(model):
        layer.reset_running_stats()
        layer.momentum = None  # torch's name for a cumulative average
    model.train()
    for batch in batches:
        model(batch)
    model.eval()
    for layer in layers(model):
        layer.momentum = 0.1


def _buffer(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("a BatchNorm layer without running statistics cannot be matched to")
    return value.clone()
