"""A run's synthetic set, to train on, from its folder: what ``teddy-cloud pull`` leaves, or ``runs/<run>`` in a store.

    found = load("out")
    pictures, logits = found.batch(image, view=1 + epoch % found.views)    # any images, in any order
    view, mirrored = found.of_epoch(epoch, mirror=True)                    # with few views: twice as many pictures

A view is a crop, perhaps mirrored, with perhaps a part of another image's view pasted in; its geometry is a function of
the numbers of the image and the view, so it is made anew here, and the labellers' answer for it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from teddy_ray.errors import UserError, WorldError
from teddy_ray.method import views
from teddy_ray.method.views import Geometry
from teddy_ray.store import images as image_files
from teddy_ray.store import labels as label_files
from teddy_ray.store.labels import SoftLabels


@dataclass(frozen=True, kw_only=True)
class Published:
    """N synthetic images, their classes, and soft labels for V + 1 views of each: view 0 is the whole image."""

    images: Tensor
    """uint8 (N, 3, H, W)."""
    classes: Tensor
    """int64 (N,), numbers in ``class_names``."""
    class_names: tuple[str, ...]
    views: int
    """V: the augmented views are 1 to V."""
    labels: SoftLabels = field(repr=False)

    def of_epoch(self, epoch: int, *, mirror: bool = False) -> tuple[int, bool]:
        """The view that the run's students of the regime views saw of every image in an epoch, and whether mirrored.

        ``mirror``: as in the run's spec, evaluate.mirror_repeats. Images that may not be mirrored never are.
        """
        return views.of_epoch(epoch, self.views, mirror=mirror and self.labels.views.flip)

    def batch(self, image: Tensor, *, view: int | Tensor, mirrored: bool = False) -> tuple[Tensor, Tensor]:
        """Views of images ``image`` (B,) as pictures (B, 3, H, W), float32 in [0, 1], and the labellers' logits (B, K).

        ``view``: one number for all, or (B,). ``mirrored``: the pictures, with the same logits. Of logits that were
        stored in less than 16 bits each row's largest is 0. Normalise the pictures as your model wants them.
        IndexError for an image or a view that is not there.
        """
        number = torch.as_tensor(view).expand_as(image)
        for name, given, count in (("image", image, len(self.images)), ("view", number, self.views + 1)):
            if len(given) and (given.min() < 0 or given.max() >= count):
                raise IndexError(f"{name} numbers are 0 to {count - 1}")
        own = self._geometry(image, number)
        partners = views.crop(self._pictures(own.partner), self._geometry(own.partner, number))
        shown, _ = views.paste(views.crop(self._pictures(image), own), partners, own)
        return shown.flip(3) if mirrored else shown, self.labels.answers.logits(number * len(self.images) + image)

    def _pictures(self, image: Tensor) -> Tensor:
        return self.images[image].float() / 255

    def _geometry(self, image: Tensor, view: Tensor) -> Geometry:
        drawn = self.labels.views
        return views.draw(
            drawn.seed,
            image,
            view,
            crop_scale=drawn.crop_scale,
            flip=drawn.flip,
            cutmix=drawn.mix == "cutmix",
            images=drawn.images,
        )


def load(folder: str | Path) -> Published:
    """The images and labels in a run's folder. UserError where there are none, WorldError where they are damaged."""
    pictures = [image_files.from_parquet(file.read_bytes(), name=str(file)) for file in _files(folder, "dataset/data")]
    parts = [label_files.from_parquet(file.read_bytes(), name=str(file)) for file in _files(folder, "labels")]
    labels = label_files.joined(parts, name=f"{folder}/labels")
    images = torch.cat([part[0] for part in pictures])
    if len(images) != labels.views.images:
        raise WorldError(
            f"{folder} has {len(images)} images, and labels of {labels.views.images}: pull the run into an empty folder"
        )
    return Published(
        images=images,
        classes=torch.cat([part[1] for part in pictures]),
        class_names=pictures[0][2],
        views=len(labels) // len(images) - 1,
        labels=labels,
    )


def _files(folder: str | Path, part: str) -> list[Path]:
    """The Parquet files of a part, whose names say how many there are."""
    found = sorted((Path(folder) / part).glob("*-of-*.parquet"))
    if not found:
        raise UserError(
            f"{folder}/{part} has no Parquet file: name the folder of a finished run or of a whole pull; a run with"
            " relabel.store = false has no labels to read"
        )
    if len(found) != int(found[0].stem.rpartition("-of-")[2]):
        raise WorldError(f"{folder}/{part} has {len(found)} files, and they are called {found[0].name}: pull the rest")
    return found
