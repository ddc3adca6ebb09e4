"""What every store can do: the few verbs that stages, records and ``pull`` are written against.

A key is a relative path of plain names, ``artifacts/base/3f…/record.json``; a prefix is the beginning of keys, and
need not end at a ``/``. No key is another's folder (``a`` and ``a/b``): a file system cannot hold
both. Every write is whole or not there: no reader ever sees half of one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from teddy_ray.errors import WorldError

_NAME = re.compile(r"[A-Za-z0-9._=-]+")


class MissingKeyError(WorldError):
    """A key that should be in the store is not."""


@dataclass(frozen=True)
class Entry:
    """What the store knows of a key without reading it: its size in bytes, and when it was written, in Unix time."""

    key: str
    size: int
    modified: float


class Store(Hashable, Protocol):
    """Keys and their bytes, in a folder or in a bucket. A bad key is a ValueError, the world's failures WorldErrors."""

    @property
    def uri(self) -> str:
        """Where this is; ``open_store(store.uri)`` opens it again, in another process too."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write ``data`` unless ``key`` is there; of many who try at once exactly one gets True."""
        ...

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write ``data``, in place of what is there."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Write the content of the file at ``path``, in place of what is there."""
        ...

    def get(self, key: str) -> bytes:
        """The content; raises MissingKeyError."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """At most ``length`` bytes from ``start``, fewer where the content ends before; raises MissingKeyError."""
        ...

    def list(self, prefix: str) -> Iterator[Entry]:
        """All keys that begin with ``prefix``, in the order of their names."""
        ...

    def head(self, key: str) -> Entry | None:
        """What is known of ``key``, or None where it is not."""
        ...

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not."""
        ...

    def copy(self, source_key: str, key: str) -> None:
        """Make ``key`` what ``source_key`` is, without carrying the bytes through this process if possible."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Where the content lies on this machine's disk, to map it into memory; None for a store that is elsewhere."""
        ...


def is_key(text: str) -> bool:
    """Whether this may be a key: no empty, absolute or climbing path, and no odd characters."""
    return all(_NAME.fullmatch(name) and name not in {".", ".."} for name in text.split("/"))


def check_key(key: str) -> str:
    """The key itself; ValueError where it is none."""
    if not is_key(key):
        raise ValueError(f"bad key {key!r}: a key is plain names of A-Z a-z 0-9 . _ = - with / between them")
    return key
