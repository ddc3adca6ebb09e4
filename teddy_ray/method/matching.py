"""Eq. 7: how far a batch of synthetic images is from what one model knows of the real data.

    L(X) = Σ_l w_l ‖ μ_l(X) − RM_l ‖₂  +  Σ_l w_l ‖ σ²_l(X) − RV_l ‖₂  +  u · CE(X, y)

The poster prints RM and RV inside μ_l(·) and σ²_l(·); taken to the letter, the variance of (f − const) would lose
RV, so the difference of statistics is meant, as in SRe2L's code. The norm is not squared: a layer keeps pulling
however near it is. w_l = 1, but for SRe2L's multiplier on the first layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from teddy_ray.method.statistics import Observer, Statistics


class Teacher:
    """A frozen model of the real data with what it remembers of them. Switching teachers costs nothing.

    ``class_means_KD``: each class's mean feature over real images, for the term that Eq. 7 lacks (``class_distance``).
    """

    def __init__(self, model: nn.Module, example_BCHW: Tensor, class_means_KD: Tensor | None = None) -> None:
        self.observe = Observer(model, example_BCHW)
        self.remembered = self.observe.remembered()
        self.class_means = class_means_KD


class Loss(NamedTuple):
    """What a teacher says of a batch: the weighted sum, and its parts unweighted. All scalars."""

    total: Tensor
    statistics: Tensor
    classification: Tensor


class Weights(NamedTuple):
    """The weights in the sum; those of Eq. 7 as the paper has it."""

    statistics: float = 1.0
    classification: float = 1.0
    """u. SRe2L writes CE + r_bn · (…): the same up to scale, with u = 1 / r_bn."""
    first_layer: float = 1.0
    class_means: float = 0.0


def distance(seen: Statistics, remembered: Statistics, *, first_layer_weight: float) -> Tensor:
    """Eq. 7's two statistics terms."""
    means = torch.stack(
        [torch.linalg.vector_norm(mean - rm) for (mean, _), (rm, _) in zip(seen, remembered, strict=True)]
    )
    variances = torch.stack(
        [torch.linalg.vector_norm(var - rv) for (_, var), (_, rv) in zip(seen, remembered, strict=True)]
    )
    weights = torch.ones_like(means)
    weights[0] = first_layer_weight
    return torch.dot(weights, means + variances)


def class_distance(features_BD: Tensor, y_B: Tensor, class_means_KD: Tensor) -> Tensor:
    """The mean, over the classes in the batch, of ‖ mean feature of the class − that of real images ‖₂.

    A linear head's gradient is (Cov + μμᵀ) W − [π_c μ_c]_c: Eq. 7's statistics stand for its first part and do not see
    labels at all (permuting y leaves them as they are); the class means are the second part. EDC and LPLD add
    class-wise statistics for the same reason. Ours, not the paper's.
    """
    members_KB = functional.one_hot(y_B, len(class_means_KD)).to(features_BD.dtype).T
    counts_K = members_KB.sum(dim=1)
    means_KD = members_KB @ features_BD / counts_K.clamp(min=1)[:, None]
    apart_K = torch.linalg.vector_norm(means_KD - class_means_KD, dim=1)
    # A product, not an index by a mask: that would wait for the device to count.
    present_K = (counts_K > 0).to(apart_K.dtype)
    return torch.dot(apart_K, present_K) / present_K.sum()


def eq7(teacher: Teacher, x_BCHW: Tensor, y_B: Tensor, weights: Weights) -> Loss:
    """Eq. 7 for one teacher, and, where it has a weight, the distance of class means."""
    logits, seen, features = teacher.observe(x_BCHW)
    statistics = distance(seen, teacher.remembered, first_layer_weight=weights.first_layer)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    classification = functional.cross_entropy(wide, y_B)
    total = weights.statistics * statistics + weights.classification * classification
    if weights.class_means:
        if teacher.class_means is None:
            raise ValueError("a weight on class means needs a teacher that has them")
        total = total + weights.class_means * class_distance(features, y_B, teacher.class_means)
    return Loss(total, statistics, classification)
