"""Algorithm 1's last line: Y = (1/|M|) Σ_θ h(A(X); θ), the labellers' answer for every view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from teddy_ray.method import compiling


@torch.no_grad()
def ensemble(labellers: Sequence[nn.Module], x_BCHW: Tensor, *, average: str, compiled: bool = False) -> Tensor:
    """The labellers' joint logits (B, K), float32.

    ``average`` = "logits": their mean, in which the confident weigh more (the lineage's way). "probs": the logarithm of
    the mean probability, the standard ensemble.
    """
    ask = compiling.compiled(_ask) if compiled else _ask
    logits_MBK = torch.stack([ask(model, x_BCHW) for model in labellers])
    if average == "logits":
        return logits_MBK.mean(dim=0)
    return torch.logsumexp(logits_MBK.log_softmax(dim=-1), dim=0) - torch.log(torch.tensor(float(len(labellers))))


def _ask(labeller: nn.Module, x_BCHW: Tensor) -> Tensor:
    logits: Tensor = labeller(x_BCHW)
    return logits.float()
