"""Real datasets: a DataSpec's source becomes uint8 images, labels and class names.

dataset = load(DataSpec(source="digits"))
dataset.train.images   # uint8 (1347, 3, 8, 8)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from teddy_ray.data import cifar, digits, folder, parquet
from teddy_ray.data.dataset import Dataset, Listing, Split, assemble
from teddy_ray.errors import UserError, WorldError
from teddy_ray.spec import DataSpec, digest, nearest
from teddy_ray.store import mirror

__all__ = ["Dataset", "Split", "fingerprint", "load"]

FORMAT = 1
"""Raise it when a source's same files would give other images, labels or names: cached decodes are then made anew."""


@dataclass(frozen=True)
class Source:
    """A kind of dataset: how its rows are listed, and, where it is at a path, which files they are made of."""

    listing: Callable[..., Listing]
    files: Callable[[Path], list[Path]] | None = None
    suffixes: tuple[str, ...] = ()
    """Of the names that ``files`` looks at."""


SOURCES: dict[str, Source] = {
    "digits": Source(digits.listing),
    "cifar10": Source(partial(cifar.listing, "cifar10")),
    "cifar100": Source(partial(cifar.listing, "cifar100")),
    "folder": Source(folder.listing, folder.files, folder.SUFFIXES),
    "parquet": Source(parquet.listing, parquet.files, (".parquet",)),
}


def load(spec: DataSpec) -> Dataset:
    """The dataset, decoded; deterministic. Raises UserError, and WorldError where a file cannot be read.

    From S3 it is brought to this disk first, where it stays; see ``teddy_ray.store.mirror``.
    """
    source, place = _find(spec.source)
    if not isinstance(place, str):
        return assemble(source.listing(*place), spec)
    path = mirror.fetch(place, source.suffixes)
    try:
        return assemble(source.listing(path), spec)
    except (UserError, WorldError) as error:  # which file is meant there, not here
        raise type(error)(str(error).replace(str(path), place.rstrip("/"))) from error


def fingerprint(spec: DataSpec) -> str:
    """A digest (64 hexadecimal characters) of ``spec`` and of its files' names, sizes and times; decodes nothing.

    In S3, an ETag stands for a time. Equal fingerprints: a cached decode may be used. Raises UserError where ``load``
    would find no files.
    """
    source, place = _find(spec.source)
    stamps: list[tuple[str, int, int | str]] = []
    if isinstance(place, str):
        stamps += [file.stamp for file in mirror.files(place, source.suffixes)]
    elif source.files:
        stamps += [_stamp(file, *place) for file in source.files(*place)]
    return digest(FORMAT, spec.model_dump(mode="json"), sorted(stamps))


def _stamp(file: Path, root: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise WorldError(f"cannot read {file}: {error.strerror}; make it readable, then run again") from error
    return file.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns


def _find(source: str) -> tuple[Source, tuple[()] | tuple[Path] | str]:
    """The Source that ``digits``, ``folder:PLACE`` or ``PLACE`` names, and where it is: nowhere, a path, in S3."""
    name, colon, rest = source.partition(":")
    if name in SOURCES and bool(colon) == bool(SOURCES[name].files):
        return SOURCES[name], _place(source, rest) if colon else ()
    return SOURCES["parquet"], _place(source, source)


def _place(source: str, text: str) -> tuple[Path] | str:
    return text if text.startswith("s3://") else (_existing(source, text),)


def _existing(source: str, text: str) -> Path:
    path = Path(text).expanduser()
    if not text or not path.exists():
        near = "" if ":" in source else nearest(source, list(SOURCES))
        raise UserError(
            f"data.source = '{source}': there is no {text or 'path in it'}{near}; a source is"
            " digits, cifar10, cifar100, folder:PATH (an image folder), or the PATH of Parquet (a PATH may be s3://…)"
        )
    return path
