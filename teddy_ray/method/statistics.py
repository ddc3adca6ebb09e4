"""What BatchNorm sees: mean and variance, per channel, of every BatchNorm layer's input (Eq. 7's f, at layer l)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    channels, wide = x_BCHW.shape[1], torch.promote_types(x_BCHW.dtype, torch.float32)
    if x_BCHW.device.type == "cpu" and not torch.compiler.is_compiling():
        # BatchNorm's own kernel, whose answer is as wide as the running statistics that it is given. A sum in a wider
        # type would copy all of x into that type first: on a CPU, five times the time.
        running = x_BCHW.new_zeros((2, channels), dtype=wide)
        mean, variance = torch.batch_norm_update_stats(x_BCHW, running[0], running[1], 1.0)
        return mean, variance
    count = x_BCHW.numel() // channels
    mean = x_BCHW.sum(dim=(0, 2, 3), dtype=wide) / count
    # A bfloat16 square is off by 2^-9 at most, either way; over a channel's thousands that averages out.
    square = x_BCHW.square().sum(dim=(0, 2, 3), dtype=wide) / count
    return mean, square - mean.square()


class FrozenNorm(nn.BatchNorm2d):
    """BatchNorm of a frozen model: y = a x + b, with a and b at hand. Compiled, torch's own finds a's root anew for
    every element, which on a CPU takes as long as all else that it does."""

    scale: Tensor
    shift: Tensor

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return _normalise(x_BCHW, self.scale, self.shift)


def frozen(model: nn.Module) -> nn.Module:
    """``model``, in evaluation mode from now on."""
    for layer in layers(model.eval().requires_grad_(False)):
        scale = layer.weight * (_present(layer.running_var) + layer.eps).rsqrt()
        layer.register_buffer("scale", scale, persistent=False)
        layer.register_buffer("shift", layer.bias - _present(layer.running_mean) * scale, persistent=False)
        layer.__class__ = FrozenNorm
    return model


def _normalise(x_BCHW: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """a x + b, in x's own type."""
    if torch.compiler.is_compiling():
        return (x_BCHW * scale[:, None, None] + shift[:, None, None]).to(x_BCHW.dtype)
    # That would make wide copies of x; BatchNorm's own kernel makes none, and subtracts no mean from a variance of one.
    mean, variance = torch.zeros_like(shift), torch.ones_like(scale)
    return functional.batch_norm(x_BCHW, mean, variance, scale, shift, eps=0.0)


class _WatchedNorm(FrozenNorm):
    """That keeps the statistics of what it is given."""

    seen: tuple[Tensor, Tensor]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW, *statistics = _WatchedNormalisation.apply(x_BCHW, self.scale, self.shift)
        self.seen = tuple(statistics)
        return y_BCHW  # type: ignore[no-any-return]


class _WatchedNormalisation(torch.autograd.Function):
    """y = a x + b, and mean and variance of x; the gradient of all three in two passes over x.

    That is a ∂y + (∂μ + 2 ∂σ² (x − μ)) / m, in x's own type, of which no wide copy is made: it is a step's largest
    tensor. torch.var_mean and its backward pass took 80 % of a step on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = batch_statistics(x_BCHW)
        ctx.save_for_backward(x_BCHW, mean, scale)
        return _normalise(x_BCHW, scale, shift), mean, variance

    @staticmethod
    def backward(ctx: Any, y_grad: Tensor, mean_grad: Tensor, variance_grad: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, mean, scale = ctx.saved_tensors
        count = x_BCHW.numel() // x_BCHW.shape[1]
        slope = 2.0 * variance_grad / count
        offset = mean_grad / count - slope * mean
        offset, slope, scale = (factor.view(1, -1, 1, 1).to(x_BCHW.dtype) for factor in (offset, slope, scale))
        return torch.addcmul(torch.addcmul(offset, x_BCHW, slope), y_grad, scale), None, None


def head(model: nn.Module) -> nn.Linear:
    """The last linear layer, whose inputs are the model's features."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


class Observed(NamedTuple):
    """What a model made of a batch, and what was seen inside it on the way."""

    logits: Tensor
    statistics: Statistics
    features: Tensor
    """What the head was given, (B, D), float32 or wider."""


class Observer:
    """A frozen model that tells what its BatchNorm layers and its head are given: ``Observer(model, x)(x).statistics``.

    It looks through layers of its own, whose tensors are the model's; so observers do not disturb one another, and
    torch.compile finds all of one shape alike: one graph serves every member of a pool.
    """

    def __init__(self, model: nn.Module, example_BCHW: Tensor) -> None:
        tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = frozen(copy.deepcopy(model.eval().requires_grad_(False), tensors))
        self.layers = _in_running_order(self.model, example_BCHW)
        self.head: Any = head(self.model)
        self.head.register_forward_pre_hook(_keep_features)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = _WatchedNorm

    def __call__(self, x_BCHW: Tensor) -> Observed:
        logits = self.model(x_BCHW)
        return Observed(logits, [layer.seen for layer in self.layers], self.head.seen)

    def remembered(self) -> Statistics:
        """RM and RV: what every layer has remembered of the real data, in the order in which the layers run."""
        return [(_present(layer.running_mean).clone(), _present(layer.running_var).clone()) for layer in self.layers]


def _keep_features(layer: Any, inputs: tuple[Tensor, ...]) -> None:
    layer.seen = _wide(inputs[0])


def _in_running_order(model: nn.Module, x_BCHW: Tensor) -> list[Any]:
    """The BatchNorm layers as they run on ``x``, which need not be the order in which they are registered."""
    order: list[Any] = []
    handles = [layer.register_forward_pre_hook(lambda layer, _: order.append(layer)) for layer in layers(model)]
    with torch.no_grad():
        model(x_BCHW)
    for handle in handles:
        handle.remove()
    if len(set(order)) < len(order):
        raise ValueError("a BatchNorm layer that runs twice remembers no single batch")
    return order


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
    features: list[Tensor] = []
    handle = head(model).register_forward_pre_hook(lambda _, inputs: features.append(_wide(inputs[0])))
    for images, labels in batches:
        model(images)
        features_BD = features.pop()
        members_KB = functional.one_hot(labels, classes).to(features_BD.dtype).T
        sums, counts = sums + members_KB @ features_BD, counts + members_KB.sum(dim=1)
    handle.remove()
    return sums / counts.clamp(min=1)[:, None]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _present(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("a BatchNorm layer without running statistics cannot be matched to")
    return value
