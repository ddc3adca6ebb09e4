"""What BatchNorm sees: mean and variance, per channel, of every BatchNorm layer's input (Eq. 7's f, at layer l)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

Statistics = list[tuple[Tensor, Tensor]]
"""Per BatchNorm layer, in the order in which the layers run: mean (C,) and biased variance (C,), float32 or wider."""


def layers(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The model's BatchNorm layers, as they are registered."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def batch_statistics(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) over batch and space, in float32 at least.

    Biased, as SRe2L's code has it, although PyTorch accumulates the unbiased one into running_var: the factor
    m / (m - 1), m = B·H·W, matters on 1x1 maps only.
    """
    mean, variance = _Moments.apply(x_BCHW)
    return mean, variance


class _Moments(torch.autograd.Function):
    """Mean and variance without a wide copy of the input, which is the largest tensor of a step.

    Sums are wide (bfloat16 cannot hold a sum of squares); the gradient, an affine map of x for each channel, stays in
    x's own type: (∂μ + 2 ∂σ² (x − μ)) / m. torch.var_mean and its backward pass took 80 % of a step on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x_BCHW.dtype, torch.float32)
        count = x_BCHW.numel() // x_BCHW.shape[1]
        mean = x_BCHW.sum(dim=(0, 2, 3), dtype=wide) / count
        # A bfloat16 square is off by 2^-9 at most, either way; over a channel's thousands that averages out.
        square = x_BCHW.square().sum(dim=(0, 2, 3), dtype=wide) / count
        ctx.save_for_backward(x_BCHW, mean)
        return mean, square - mean.square()

    @staticmethod
    def backward(ctx: Any, mean_grad: Tensor, variance_grad: Tensor) -> Tensor:
        x_BCHW, mean = ctx.saved_tensors
        count = x_BCHW.numel() // x_BCHW.shape[1]
        slope = 2.0 * variance_grad / count
        offset = mean_grad / count - slope * mean
        shape = (1, -1, 1, 1)
        return torch.addcmul(offset.view(shape).to(x_BCHW.dtype), x_BCHW, slope.view(shape).to(x_BCHW.dtype))


def head(model: nn.Module) -> nn.Linear:
    """The last linear layer, whose inputs are the model's features."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


class Recorder:
    """Collects batch statistics and features while its model runs: ``with Recorder(model) as seen: model(x)``."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.statistics: Statistics = []
        self.features: Tensor = torch.empty(0)
        """What the head was given, (B, D), float32 or wider."""
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Recorder:
        self._handles = [layer.register_forward_pre_hook(self._record_statistics) for layer in layers(self.model)]
        self._handles.append(head(self.model).register_forward_pre_hook(self._record_features))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _record_statistics(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.statistics.append(batch_statistics(inputs[0]))

    def _record_features(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = _wide(inputs[0])


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


@torch.no_grad()
def class_means(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: int) -> Tensor:
    """The mean feature (K, D) of each class over ``batches`` of real images (B, 3, H, W) and their classes (B,)."""
    sums = counts = torch.zeros((), device=next(model.parameters()).device)
    with Recorder(model) as seen:
        for images, labels in batches:
            model(images)
            members_KB = functional.one_hot(labels, classes).to(seen.features.dtype).T
            sums, counts = sums + members_KB @ seen.features, counts + members_KB.sum(dim=1)
            seen.statistics.clear()
    return sums / counts.clamp(min=1)[:, None]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _buffer(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("a BatchNorm layer without running statistics cannot be matched to")
    return value.clone()
