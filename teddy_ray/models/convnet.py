"""ConvNet: the small network on which dataset distillation compares itself (DC, DM, MTT and their line).

Blocks of 3x3 convolution to 128 channels, normalisation, ReLU and 2x2 average pooling, then one linear layer. That line
normalises each image by itself (InstanceNorm); statistics matching needs running statistics, so here it is BatchNorm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Images (N, 3, S, S) to logits (N, num_classes); made for one image size S, as its last layer sees a map."""

    def __init__(self, num_classes: int, image_size: int, *, width: int = 128) -> None:
        super().__init__()
        self.image_size = image_size
        blocks = depth(image_size)
        self.features = nn.Sequential(*(_block(3 if i == 0 else width, width) for i in range(blocks)))
        self.classifier = nn.Linear(width * (image_size >> blocks) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.features(images), 1))
        return logits


def depth(image_size: int) -> int:
    """Blocks for an image size: floor(log2) - 2, and at least 3, so that 8 ends at 1x1, 32, 64, 128 … at 4x4."""
    return max(3, image_size.bit_length() - 3)


def _block(channels: int, width: int) -> nn.Sequential:
    # BatchNorm undoes the convolution's bias; it stays, as that line's well-known 320,010 parameters count it.
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(kernel_size=2),
    )
