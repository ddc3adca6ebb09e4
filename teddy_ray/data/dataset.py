"""What every source becomes: uint8 images, labels 0..K-1 and class names, in a training and a test split.

A source lists its rows with their labels and decodes nothing (``Listing``); ``assemble`` then chooses classes and rows,
holds a test split out where there is none, and has only the chosen rows decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from teddy_ray.data.decode import BrokenImageError, Raw, decode_all
from teddy_ray.errors import UserError
from teddy_ray.spec import DataSpec, nearest

SMALLEST = 8
"""Images are at least this wide and high: below, the smallest student's pooling has nothing left to pool."""


@dataclass(frozen=True)
class Split:
    """The images and labels of one split, in the dataset's order."""

    images: Tensor
    """uint8 (N, 3, H, W), RGB."""
    labels: Tensor
    """int64 (N,), 0..K-1."""


@dataclass(frozen=True)
class Dataset:
    """A real dataset, decoded."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    flip: bool
    """Whether a mirrored image is still of its class."""
    skipped: int
    """Broken images left out of both splits (0 unless ``skip_broken``)."""


class Rows(Protocol):
    """A split that is not decoded yet."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,)."""

    def where(self, row: int) -> str:
        """How to find a row, for messages."""

    def read(self, rows: np.ndarray) -> Iterator[Raw]:
        """The raw images of ``rows``, which ascend."""


@dataclass(frozen=True)
class Pixels:
    """Rows that a library hands over decoded."""

    name: str
    images: np.ndarray  # uint8 (N, H, W, 3)
    labels: np.ndarray

    def where(self, row: int) -> str:
        return f"{self.name} row {row}"

    def read(self, rows: np.ndarray) -> Iterator[Raw]:
        return (self.images[row] for row in rows)


@dataclass(frozen=True)
class Files:
    """Rows that are image files."""

    paths: Sequence[Path]
    labels: np.ndarray

    def where(self, row: int) -> str:
        return str(self.paths[row])

    def read(self, rows: np.ndarray) -> Iterator[Raw]:
        return (self.paths[row] for row in rows)


@dataclass(frozen=True)
class Listing:
    """A source's rows, with everything that is known before decoding."""

    train: Rows
    test: Rows | None = None
    class_names: tuple[str, ...] | None = None
    flip: bool = True
    held_out: float = 0.2
    """The share of a class's images that becomes the test split where ``test`` is absent."""


@dataclass(frozen=True)
class Choice:
    """The rows of one split that are wanted, with their labels among the chosen classes."""

    rows: Rows
    indices: np.ndarray
    labels: np.ndarray


def assemble(listing: Listing, spec: DataSpec) -> Dataset:
    """Choose, decode and check. Raises UserError for what is not a dataset to train a classifier on."""
    names = _class_names(listing)
    for rows in filter(None, (listing.train, listing.test)):
        _check_labels(rows, names)
    classes = choose(names, spec.classes)
    chosen = tuple(names[label] for label in classes)
    train, test = _splits(listing, names, classes, spec.per_class)
    train_split, train_skipped = _decode(train, chosen, spec, "training", None)
    test_split, test_skipped = _decode(test, chosen, spec, "test", tuple(train_split.images.shape[1:]))
    flip = listing.flip if spec.flip is None else spec.flip
    return Dataset(train_split, test_split, chosen, flip, train_skipped + test_skipped)


def choose(names: Sequence[str], classes: int | Sequence[str] | None) -> list[int]:
    """The labels of the first n classes, or of the named ones in their order, or of all. Raises UserError."""
    if isinstance(classes, int) and classes > len(names):
        raise UserError(f"data.classes = {classes}: the dataset has {len(names)} classes; ask for 2 to {len(names)}")
    if classes is None or isinstance(classes, int):
        chosen = list(range(len(names)))[:classes]
    else:
        chosen = [_label(name, names) for name in classes]
    if len(set(chosen)) < len(chosen):
        raise UserError(f"data.classes = {list(classes)} names one class twice")  # type: ignore[arg-type]
    if len(chosen) < 2:
        raise UserError(
            f"a classifier needs at least 2 classes; of the dataset's {len(names)}, {len(chosen)} is chosen"
        )
    return chosen


def hold_out(labels: np.ndarray, classes: Sequence[int], share: float) -> np.ndarray:
    """Which rows are for testing: bool (N,), ``share`` of each of ``classes``, at least one image.

    A class's images are drawn by a hash of their position in it, so the draw depends neither on the other classes nor
    on a library's random numbers, and is spread over the class where its images are sorted.
    """
    test = np.zeros(len(labels), dtype=bool)
    for label in classes:
        rows = np.flatnonzero(labels == label)
        drawn = sorted(range(len(rows)), key=lambda position: hashlib.sha256(f"{label}:{position}".encode()).digest())
        test[rows[drawn[: max(1, round(share * len(rows)))]]] = True
    return test


def _class_names(listing: Listing) -> tuple[str, ...]:
    if listing.class_names is not None:
        return listing.class_names
    labels = listing.train.labels
    largest = int(labels.argmax())
    # Without names, labels must be 0..K-1 without a gap, which is impossible with more classes than images.
    if labels[largest] >= len(labels):
        raise UserError(
            f"{listing.train.where(largest)} has label {labels[largest]}, and there are {len(labels)} training images:"
            " without class names, labels must be 0..K-1"
        )
    return tuple(str(label) for label in range(max(labels[largest], 0) + 1))


def _check_labels(rows: Rows, names: Sequence[str]) -> None:
    wrong = np.flatnonzero((rows.labels < 0) | (rows.labels >= len(names)))
    if wrong.size:
        raise UserError(
            f"{rows.where(int(wrong[0]))} has label {rows.labels[wrong[0]]}, but the dataset's classes go from 0 to"
            f" {len(names) - 1}; mend it (a test split without labels cannot be used: leave its files out)"
        )


def _label(name: str, names: Sequence[str]) -> int:
    if name not in names:
        near = nearest(name, list(names))
        raise UserError(f"data.classes: no class is named '{name}'{near}; the dataset has {len(names)}: {_few(names)}")
    return names.index(name)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:5])}, …, {names[-1]}"


def _splits(
    listing: Listing, names: Sequence[str], classes: Sequence[int], per_class: int | None
) -> tuple[Choice, Choice]:
    """The wanted rows for training (``per_class`` a class) and testing, which are never the same."""
    labels = listing.train.labels
    if listing.test is not None:
        everywhere = np.ones(len(labels), dtype=bool)
        test = _pick(listing.test, classes, np.ones(len(listing.test.labels), dtype=bool), None)
        return _pick(listing.train, classes, everywhere, per_class), test
    _check_enough(labels, names, classes)
    for_test = hold_out(labels, classes, listing.held_out)
    return _pick(listing.train, classes, ~for_test, per_class), _pick(listing.train, classes, for_test, None)


def _check_enough(labels: np.ndarray, names: Sequence[str], classes: Sequence[int]) -> None:
    counts = np.bincount(labels, minlength=len(names))
    for label in classes:
        if counts[label] == 1:
            raise UserError(
                f"class '{names[label]}' has 1 image, too few to hold one out for testing: give it a second one, add a"
                " test split, or leave the class out by data.classes"
            )


def _pick(rows: Rows, classes: Sequence[int], allowed: np.ndarray, per_class: int | None) -> Choice:
    order = np.full(int(rows.labels.max(initial=0)) + 1, -1)
    for position, label in enumerate(classes):
        order[label : label + 1] = position  # a slice: the split may lack the last classes
    labels = np.where(allowed, order[rows.labels], -1)
    if per_class is not None:
        for position in range(len(classes)):
            labels[np.flatnonzero(labels == position)[per_class:]] = -1
    indices = np.flatnonzero(labels >= 0)
    return Choice(rows, indices, labels[indices])


def _decode(
    choice: Choice, names: Sequence[str], spec: DataSpec, split: str, shape: tuple[int, ...] | None
) -> tuple[Split, int]:
    """The chosen rows as a Split, and how many of them were broken. ``shape``: (3, H, W) of the training images."""
    _check_classes(choice.labels, names, split, skipped=0)
    images = None if shape is None else np.empty((len(choice.indices), *shape), dtype=np.uint8)
    kept: list[int] = []
    decoded = decode_all(choice.rows.read(choice.indices), size=spec.size)
    for position, image in enumerate(decoded):
        where = choice.rows.where(int(choice.indices[position]))
        if isinstance(image, BrokenImageError):
            _refuse_broken(where, image, skip=spec.skip_broken)
            continue
        if images is None:
            _check_first(where, image)
            images = np.empty((len(choice.indices), 3, *image.shape[:2]), dtype=np.uint8)
        _check_shape(where, image, images.shape[2:])
        images[len(kept)] = image.transpose(2, 0, 1)
        kept.append(position)
    skipped = len(choice.indices) - len(kept)
    labels = choice.labels[kept]
    _check_classes(labels, names, split, skipped=skipped)
    assert images is not None  # every class has an image
    return Split(torch.from_numpy(images[: len(kept)]), torch.from_numpy(labels)), skipped


def _check_classes(labels: np.ndarray, names: Sequence[str], split: str, *, skipped: int) -> None:
    empty = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if empty.size:
        broken = f" that can be read ({skipped} of the split are broken)" if skipped else ""
        raise UserError(
            f"class '{names[empty[0]]}' has no {split} images{broken}; add some, or leave the class out by data.classes"
        )


def _refuse_broken(where: str, error: BrokenImageError, *, skip: bool) -> None:
    if not skip:
        raise UserError(
            f"{where}: the image is broken ({error}); mend or remove it, or pass --skip-broken, which leaves broken"
            " images out and counts them"
        ) from error


def _check_first(where: str, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise UserError(
            f"{where}: the images are {height}x{width}, and the smallest size is {SMALLEST}; resize them by"
            " --set data.size=32"
        )
    if height != width:
        raise UserError(f"{where}: the image is {height}x{width}, not square; cut and resize by --set data.size=64")


def _check_shape(where: str, image: np.ndarray, expected: tuple[int, ...]) -> None:
    if image.shape[:2] != expected:
        (height, width), (first_height, first_width) = image.shape[:2], expected
        raise UserError(
            f"{where}: the image is {height}x{width}, but those before it are {first_height}x{first_width};"
            " give all one size by --set data.size=64"
        )
