"""Contact sheets: many small images in one PNG, whole pixels enlarged, with clear gaps between."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

SEEN = 48
"""Images smaller than this many pixels are enlarged by a whole factor until they reach it."""


def contact_sheet(images: Tensor, *, columns: int, scale: int | None = None, gap: int = 2) -> bytes:
    """PNG of uint8 images (N, 3, H, W) in rows of ``columns``; ``scale`` enlarges pixels (absent: to at least 48)."""
    scale = scale or -(-SEEN // min(images.shape[2:]))
    tiles_NHWC = images.permute(0, 2, 3, 1).repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
    count, height, width = tiles_NHWC.shape[:3]
    rows, columns = -(-count // columns), min(columns, count)
    # Gaps are transparent, so that a sheet stands on a light page and on a dark one.
    sheet_HWC = torch.zeros(rows * (height + gap) - gap, columns * (width + gap) - gap, 4, dtype=torch.uint8)
    for index, tile_HWC in enumerate(tiles_NHWC):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet_HWC[top : top + height, left : left + width, :3] = tile_HWC
        sheet_HWC[top : top + height, left : left + width, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(sheet_HWC.numpy()).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def shrink(images: Tensor, *, side: int) -> Tensor:
    """uint8 images (N, 3, H, W) made no larger than ``side``, as they are where they fit."""
    longest = max(images.shape[2:])
    if longest <= side:
        return images
    height, width = (max(1, round(length * side / longest)) for length in images.shape[2:])
    small = torch.nn.functional.interpolate(images.float(), size=(height, width), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).byte()
