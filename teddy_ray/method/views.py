"""Views: one augmented look at an image, whose geometry is a function of (seed, image, view).

A view is a random resized crop, perhaps mirrored, with perhaps a box of another image's view pasted in (CutMix).
All lengths are shares of the image's side, so that a geometry means the same at every resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from teddy_ray.method.randomness import uniform

WHOLE = 0
"""View 0 is the image itself; views 1, 2, … are augmented."""


@dataclass(frozen=True)
class Geometry:
    """Of every view in a batch: crop box, mirror, and the box that a partner image is pasted into. All (B,)."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    partner: Tensor
    mix_top: Tensor
    mix_left: Tensor
    mix_height: Tensor
    mix_width: Tensor

    def __getitem__(self, rows: Tensor) -> Geometry:
        return Geometry(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device) -> Geometry:
        return Geometry(*(getattr(self, field.name).to(device) for field in fields(self)))


def draw(
    seed: int, image: Tensor, view: Tensor, *, crop_scale: float, flip: bool, cutmix: bool, images: int
) -> Geometry:
    """The geometry of views ``view`` (B,) of images ``image`` (B,), out of a set of ``images`` images.

    The crop is torchvision's RandomResizedCrop (area in [crop_scale, 1], aspect in [3/4, 4/3]), except that the aspect
    is limited to what fits: area 1 is the whole image. CutMix is Yun et al. (2019) with a uniform lambda.
    """

    def number(name: str) -> Tensor:
        return uniform(seed, name, image, view)

    whole = view == WHOLE
    area = torch.where(whole, 1.0, crop_scale + (1.0 - crop_scale) * number("area"))
    aspect = torch.exp((2.0 * number("aspect") - 1.0) * math.log(4 / 3)).clamp(min=area, max=1.0 / area)
    height, width = (area / aspect).sqrt().clamp(max=1.0), (area * aspect).sqrt().clamp(max=1.0)
    mirrored = (number("flip") < 0.5) & ~whole if flip else torch.zeros_like(whole)
    partner = (number("partner") * images).long() if cutmix else image.clone()
    side = torch.where(whole, 0.0, number("lambda").sqrt()) if cutmix else torch.zeros_like(area)
    middle_y, middle_x = number("mix_y"), number("mix_x")
    mix_top, mix_left = (middle_y - side / 2).clamp(min=0), (middle_x - side / 2).clamp(min=0)
    numbers = (
        number("top") * (1.0 - height),
        number("left") * (1.0 - width),
        height,
        width,
        mix_top,
        mix_left,
        (middle_y + side / 2).clamp(max=1) - mix_top,
        (middle_x + side / 2).clamp(max=1) - mix_left,
    )
    top, left, height, width, mix_top, mix_left, mix_height, mix_width = (n.float() for n in numbers)
    partner = torch.where(whole, image, partner)
    return Geometry(top, left, height, width, mirrored, partner, mix_top, mix_left, mix_height, mix_width)


def crop(images_BCHW: Tensor, geometry: Geometry) -> Tensor:
    """Every image through its own crop and mirror, at its own size; differentiable in the images.

    Bilinear interpolation is separable, so a crop is a matrix product on either side. Unlike grid_sample, which adds
    atomically in its backward pass on a GPU, that gives the same bits every time, and matrix products are fast.
    """
    (height, width), dtype = images_BCHW.shape[2:], images_BCHW.dtype
    rows_BHH = _interpolation(geometry.top.to(dtype), geometry.height, height, torch.zeros_like(geometry.flip))
    columns_BWW = _interpolation(geometry.left.to(dtype), geometry.width, width, geometry.flip)
    cropped = rows_BHH[:, None] @ images_BCHW @ columns_BWW[:, None].transpose(2, 3)
    return cropped.contiguous(memory_format=torch.channels_last)


def paste(views_BCHW: Tensor, partners_BCHW: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """CutMix: the partner's view inside the box. Also returns the share (B,) of pixels that stay the image's own."""
    height, width = views_BCHW.shape[2:]
    inside_y = _inside(geometry.mix_top, geometry.mix_height, height)  # (B, H)
    inside_x = _inside(geometry.mix_left, geometry.mix_width, width)  # (B, W)
    mask = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]  # (B, 1, H, W)
    kept = 1.0 - mask.float().mean(dim=(1, 2, 3))
    return torch.where(mask, partners_BCHW, views_BCHW), kept


def of_epoch(epoch: int, views: int, *, mirror: bool) -> tuple[int, bool]:
    """Which of ``views`` augmented views an epoch shows, and whether as its mirror image.

    Views come round again. With ``mirror``, for images that may be mirrored, every second time round is mirrored: a
    labeller that was trained on both says nearly the same of them, and the student sees twice as many pictures.
    """
    return 1 + epoch % views, mirror and epoch // views % 2 == 1


def render(images_BCHW: Tensor, partners_BCHW: Tensor, own: Geometry, partner: Geometry) -> tuple[Tensor, Tensor]:
    """Views of images as a model sees them, and each one's own share (B,); ``partner`` is the geometry of the partners'
    own views (their crop and mirror; their own mixing is not applied)."""
    return paste(crop(images_BCHW, own), crop(partners_BCHW, partner), own)


def _interpolation(start: Tensor, length: Tensor, count: int, flip: Tensor) -> Tensor:
    """The matrices (B, count, count) that sample [start, start + length) at ``count`` centres, edges repeated."""
    pixel = torch.arange(count, dtype=start.dtype, device=start.device)
    # In pixels, not in shares of the side, whose rounding would blur the whole image by an ulp.
    centres = torch.where(flip[:, None], count - 1 - pixel, pixel) + 0.5
    position = (start[:, None] * count + length[:, None] * centres - 0.5).clamp(0, count - 1)
    return (1.0 - (position[:, :, None] - pixel).abs()).clamp(min=0)


def _inside(start: Tensor, length: Tensor, count: int) -> Tensor:
    """Which of ``count`` pixel centres lie in [start, start + length): (B, count)."""
    centres = (torch.arange(count, device=start.device) + 0.5) / count
    return (centres >= start[:, None]) & (centres < (start + length)[:, None])
