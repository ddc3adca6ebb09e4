"""Bring a file out of the store to a place of the user's: resumed where it broke off, verified, put in place at once.

    download(store, file, Path("out/labels/labels-00000-of-00001.parquet"))

What has come so far is beside the target in ``<name>.<first 16 hex of its SHA-256>.part``; the target itself is either
as it was or whole and right. Two processes that fetch the same file write the same bytes to the same places.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from teddy_ray.errors import WorldError
from teddy_ray.store.base import Store
from teddy_ray.store.folder import explained
from teddy_ray.store.records import File

BLOCK = 8 << 20
"""Bytes asked for at a time: what is lost at most when a download breaks off, and what a thread holds in memory."""

Told = Callable[[int], None]


class ChangedError(WorldError):
    """What the store has is not what was written there."""


def download(store: Store, file: File, target: Path, *, told: Told = lambda _: None) -> int:
    """Fetch ``file`` to ``target``; returns how many bytes had to come. ``told`` hears how many are there.

    Raises ChangedError where the bytes are not those of ``file.sha256``, and whatever ``told`` raises.
    """
    part = target.with_name(f"{target.name}.{file.sha256[:16]}.part")
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        come, right = _fill(store, file, part, told)
        if resumed and not right:  # a machine that lost power may have left anything there
            part.unlink()
            more, right = _fill(store, file, part, told)
            come += more
        if not right:
            part.unlink()
            raise ChangedError(f"{store.uri}/{file.key} is not what was written there: its SHA-256 is another")
        part.replace(target)
    return come


def is_there(file: File, target: Path) -> bool:
    """Whether ``target`` has the file's bytes; reads all of them if the size is right."""
    with explained(target):
        if not target.is_file() or target.stat().st_size != file.size:
            return False
        with target.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


def _fill(store: Store, file: File, part: Path, told: Told) -> tuple[int, bool]:
    """Go on with ``part`` to the end; how many bytes had to come, and whether all of them are right."""
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
        sha256 = hashlib.sha256()
        begin = here = _read(stream, file.size, sha256.update, told)
        while here < file.size:
            data = store.get_range(file.key, here, min(BLOCK, file.size - here))
            if not data:
                raise ChangedError(f"{store.uri}/{file.key} was cut: it ends after {here:,} of {file.size:,} bytes")
            stream.write(data)
            sha256.update(data)
            here += len(data)
            told(here)
        stream.truncate()
        stream.flush()
        os.fsync(stream.fileno())
    return here - begin, sha256.hexdigest() == file.sha256


def _read(stream: BinaryIO, size: int, update: Callable[[bytes], None], told: Told) -> int:
    """Take what is there of ``size`` bytes; how many those are."""
    here = 0
    while data := stream.read(min(BLOCK, size - here)):
        update(data)
        here += len(data)
        told(here)
    return here
