"""Algorithm 1's last line: Y = (1/|M|) Σ_θ h(A(X); θ), the labellers' answer for every view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def ensemble(labellers: Sequence[nn.Module], x_BCHW: Tensor, *, average: str) -> Tensor:
    """The labellers' joint logits (B, K), float32.

    ``average`` = "logits": their mean, in which the confident weigh more (the lineage's way). "probs": the logarithm of
    the mean probability, the standard ensemble.
    """
    logits_MBK = torch.stack([model(x_BCHW).float() for model in labellers])
    if average == "logits":
        return logits_MBK.mean(dim=0)
    return torch.logsumexp(logits_MBK.log_softmax(dim=-1), dim=0) - torch.log(torch.tensor(float(len(labellers))))
