"""``folder:PATH``: an image folder, one folder a class.

    PATH/train/<class>/**/*.png with PATH/val/<class>/… (or validation/, or test/)
    PATH/<class>/**/*.png, or a train/ alone: a fifth of every class is held out for testing

``val`` is taken where there is a ``test`` too: published test sets often have no labels (ImageNet's). Files whose name
begins with a dot or ends like no image are not looked at. Classes and images are in the order of their names.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from teddy_ray.data.dataset import Files, Listing
from teddy_ray.errors import UserError
from teddy_ray.spec import nearest

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TEST_FOLDERS = ("val", "validation", "test")


def listing(path: Path) -> Listing:
    """The images below ``path``. Raises UserError where there are none."""
    train, test = _roots(path)
    names = [folder.name for folder in _folders(train)]
    if not names:
        raise UserError(f"{train} has no class folders; an image folder is PATH/train/<class>/… or PATH/<class>/…")
    for folder in _folders(test) if test else []:
        if folder.name not in names:
            raise UserError(f"{folder} is a class that {train} lacks{nearest(folder.name, names)}")
    return Listing(_rows(train, names), _rows(test, names) if test else None, class_names=tuple(names))


def files(path: Path) -> list[Path]:
    """Every image file that ``listing`` would take."""
    return [image for root in _roots(path) if root for folder in _folders(root) for image in _images(folder)]


def _roots(path: Path) -> tuple[Path, Path | None]:
    """Where the training classes are, and where the test classes are, if there are any."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; folder:PATH takes a folder of class folders")
    tests = [path / name for name in TEST_FOLDERS if (path / name).is_dir()]
    if (path / "train").is_dir():
        return path / "train", tests[0] if tests else None
    if tests:
        raise UserError(f"{path} has {tests[0].name}/ but no train/: a split dataset is PATH/train/… and PATH/val/…")
    return path, None


def _rows(root: Path, names: list[str]) -> Files:
    paths, labels = [], []
    for label, name in enumerate(names):
        images = _images(root / name)
        paths += images
        labels += [label] * len(images)
    if not paths:
        raise UserError(f"{root} has no images in its class folders; image files end in {', '.join(SUFFIXES)}")
    return Files(paths, np.asarray(labels, dtype=np.int64))


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """The images below ``folder``, at any depth, by name; none if it does not exist."""
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    return sorted(found)
