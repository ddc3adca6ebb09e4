"""What BatchNorm sees: mean and variance, per channel, of every BatchNorm layer's input (Eq. 7's f, at layer l)."""

from __future__ import annotations

from collections.abc import Iterable

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
    """Mean and biased variance over batch and space. In float32 at least: bfloat16 cannot hold a sum of squares.

    Biased, as SRe2L's code has it, although PyTorch accumulates the unbiased one into running_var: the factor
    m / (m - 1), m = B·H·W, matters on 1x1 maps only.
    """
    variance, mean = torch.var_mean(_wide(x_BCHW), dim=(0, 2, 3), correction=0)
    return mean, variance


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
