"""Eq. 7: how far a batch of synthetic images is from what one model knows of the real data.

    L(X) = Σ_l w_l ‖ μ_l(X) − RM_l ‖₂  +  Σ_l w_l ‖ σ²_l(X) − RV_l ‖₂  +  u · CE(X, y)

The poster prints RM and RV inside μ_l(·) and σ²_l(·); taken to the letter, the variance of (f − const) would lose RV, so
the difference of statistics is meant, as SRe2L's code has it (method.md 2.4, point 2). The norm is not squared: a layer
keeps pulling however near it is (point 3). w_l = 1, but for SRe2L's multiplier on the first layer (point 7).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from teddy_ray.method.statistics import Recorder, Statistics, running_statistics


class Teacher:
    """A frozen model of the real data with its remembered statistics. Switching teachers costs nothing."""

    def __init__(self, model: nn.Module, example_BCHW: Tensor) -> None:
        self.model = model.eval().requires_grad_(False)
        self.remembered = running_statistics(self.model, example_BCHW)


class Loss(NamedTuple):
    """Eq. 7 and its two parts, unweighted, as scalars."""

    total: Tensor
    statistics: Tensor
    classification: Tensor


def distance(seen: Statistics, remembered: Statistics, *, first_layer_weight: float) -> Tensor:
    """Eq. 7's two statistics terms."""
    means = torch.stack([torch.linalg.vector_norm(mean - rm) for (mean, _), (rm, _) in zip(seen, remembered, strict=True)])
    variances = torch.stack([torch.linalg.vector_norm(var - rv) for (_, var), (_, rv) in zip(seen, remembered, strict=True)])
    weights = torch.ones_like(means)
    weights[0] = first_layer_weight
    return torch.dot(weights, means + variances)


def eq7(
    teacher: Teacher,
    x_BCHW: Tensor,
    y_B: Tensor,
    *,
    class_weight: float,
    statistics_weight: float = 1.0,
    first_layer_weight: float = 1.0,
) -> Loss:
    """Eq. 7 for one teacher; ``class_weight`` is u. SRe2L writes CE + r_bn · (…): the same up to scale, with u = 1 / r_bn."""
    with Recorder(teacher.model) as seen:
        logits = teacher.model(x_BCHW)
    statistics = distance(seen.statistics, teacher.remembered, first_layer_weight=first_layer_weight)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    classification = functional.cross_entropy(wide, y_B)
    return Loss(statistics_weight * statistics + class_weight * classification, statistics, classification)
