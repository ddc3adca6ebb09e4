"""Algorithm 1's two branches, the choices in them: which early checkpoints become members (prior).

post members are pruned copies (models.pruning), fine-tuned with training.Trainer, then statistics.estimate_again.
"""

from __future__ import annotations

from collections.abc import Sequence


def choose_checkpoints(accuracies: Sequence[float], *, size: int, band: tuple[float, float]) -> list[int]:
    """Epochs (1-based, ascending) of ``size`` checkpoints, given each epoch's accuracy.

    Those whose accuracy, as a share of the last one's, lies in ``band``, spread evenly over the epochs; where the band
    holds fewer than ``size``, the nearest outside it as well. Weak on purpose: better classifiers are harder to match.
    """
    final = max(accuracies[-1], 1e-12)
    epochs = range(1, len(accuracies) + 1)

    def outside(epoch: int) -> float:
        share = accuracies[epoch - 1] / final
        return max(band[0] - share, share - band[1], 0.0)

    within = [epoch for epoch in epochs if outside(epoch) == 0.0]
    if len(within) < size:
        return sorted(sorted(epochs, key=lambda epoch: (outside(epoch), epoch))[:size])
    if size == 1:
        return [within[len(within) // 2]]
    return [within[round(index * (len(within) - 1) / (size - 1))] for index in range(size)]
