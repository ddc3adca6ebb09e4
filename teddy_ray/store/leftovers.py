"""What writers that were killed leave in a store: a folder's temporary files, S3's unfinished uploads, lent folders.

for leftover in leftovers(store): remove(store, leftover)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from teddy_ray.store.base import Entry, MissingKeyError, Store
from teddy_ray.store.folder import FolderStore, explained

if TYPE_CHECKING:
    from teddy_ray.store.s3 import S3Store


LENT = "ray-train/"
"""Under which another library writes, and tidies up unless it is killed."""


@dataclass(frozen=True)
class Leftover(Entry):
    """``key`` says where it is; ``upload``, which of S3's uploads it is, if it is one."""

    upload: str = ""


def leftovers(store: Store) -> Iterator[Leftover]:
    """All of them, those of writers that are alive too: go by their age."""
    for entry in store.list(LENT):
        yield Leftover(entry.key, entry.size, entry.modified)
    if isinstance(store, FolderStore):
        yield from _temporary_files(store)
    elif (elsewhere := _s3(store)) is not None:
        within = f"{elsewhere.prefix}/" if elsewhere.prefix else ""
        for upload in elsewhere.bucket.uploads(within):
            yield Leftover(upload.key.removeprefix(within), upload.size, upload.began, upload.id)


def remove(store: Store, leftover: Leftover) -> None:
    """Remove one; nothing happens where its writer was alive after all, and has."""
    if isinstance(store, FolderStore):
        path = store.root / leftover.key
        with suppress(MissingKeyError), explained(path):
            path.unlink()
    elif not leftover.upload:
        store.delete(leftover.key)
    elif (elsewhere := _s3(store)) is not None:
        elsewhere.bucket.take_back(f"{elsewhere.prefix}/{leftover.key}".lstrip("/"), leftover.upload)


def _s3(store: Store) -> S3Store | None:
    from teddy_ray.store.s3 import S3Store

    return store if isinstance(store, S3Store) else None


def _temporary_files(store: FolderStore) -> Iterator[Leftover]:
    for folder, _, names in os.walk(store.root):
        for path in (Path(folder, name) for name in names if name.startswith("~")):
            with suppress(MissingKeyError), explained(path):
                status = path.stat()
                yield Leftover(path.relative_to(store.root).as_posix(), status.st_size, status.st_mtime)
