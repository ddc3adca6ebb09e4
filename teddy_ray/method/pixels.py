"""Between stored bytes and what a model sees: uint8 (N, 3, H, W) and normalised float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """The real images' mean and standard deviation per channel, in [0, 1]; every model sees (x - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, images_N3HW: Tensor) -> Pixels:
        """Measured on uint8 images, in integers and float64, so that it is the same everywhere."""
        histogram = torch.stack([torch.bincount(images_N3HW[:, c].reshape(-1).long(), minlength=256) for c in range(3)])
        share = histogram.double() / histogram.double().sum(dim=1, keepdim=True)  # (3, 256)
        levels = torch.arange(256, dtype=torch.float64) / 255.0
        mean = (share * levels).sum(dim=1)
        variance = (share * levels.square()).sum(dim=1) - mean.square()
        # A channel that never changes would divide by zero: one gray level is the least that can be seen.
        std = variance.clamp(min=1 / 255.0**2).sqrt()
        mean_r, mean_g, mean_b = (round(value, 6) for value in mean.tolist())
        std_r, std_g, std_b = (round(value, 6) for value in std.tolist())
        return cls((mean_r, mean_g, mean_b), (std_r, std_g, std_b))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 -> normalised float32, channels last in memory."""
        mean, std = self._on(images.device)
        return ((images.float() / 255.0 - mean) / std).contiguous(memory_format=torch.channels_last)

    def quantise(self, images: Tensor) -> Tensor:
        """Normalised float32 -> uint8, rounded to the nearest level. What is published is this, and nothing finer."""
        mean, std = self._on(images.device)
        return ((images * std + mean) * 255.0).round().clamp(0, 255).to(torch.uint8).contiguous()

    def bounds(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The normalised values of black and white, each (1, 3, 1, 1)."""
        mean, std = self._on(device)
        return (0.0 - mean) / std, (1.0 - mean) / std

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=device).view(shape)
        return mean, torch.tensor(self.std, dtype=torch.float32, device=device).view(shape)
