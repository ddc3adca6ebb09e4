"""What is in a store elsewhere, on this machine's disk: fetched once, verified, shared by all processes.

    path = fetch(store, key, size=1000, sha256="9f86…")

The folder is TEDDY_CACHE, else ~/.cache/teddy-cloud/store; a file's name is its SHA-256, so nothing in it is ever out
of date, and it may be removed whenever no run is at work.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path

from teddy_ray.store.base import Store
from teddy_ray.store.folder import explained

BLOCK = 16 << 20
AT_ONCE = 4


def folder() -> Path:
    """Where the cache is."""
    named = os.environ.get("TEDDY_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "teddy-cloud" / "store"


def fetch(store: Store, key: str, *, size: int, sha256: str) -> Path | None:
    """A file with the key's content, which has ``sha256``; None where the store has something else there.

    A process that finds the file verifies it when it first asks. Raises MissingKeyError.
    """
    place = folder() / sha256[:2] / sha256
    with explained(place):
        if place.exists() and sha256_of(place) == sha256:
            return place
        with locked(place):
            for _ in range(2):  # another process may have fetched it; and a wrong copy is fetched again once
                if place.exists() and sha256_of(place) == sha256:
                    return place
                written = download(lambda start, length: store.get_range(key, start, length), size, place)
                if written == sha256:
                    return place
            place.unlink()
    return None


def keep(content: bytes | Path, sha256: str) -> None:
    """Put bytes or a file's content into the cache, as if they had been fetched."""
    place = folder() / sha256[:2] / sha256
    with explained(place), locked(place), _temporary(place) as temporary:
        if isinstance(content, Path):
            shutil.copyfile(content, temporary)
        else:
            temporary.write_bytes(content)


def download(read: Callable[[int, int], bytes], size: int, place: Path) -> str:
    """Write what ``read(start, length)`` gives to ``place``, whole or not at all; its SHA-256. Hold ``locked(place)``.

    Reads on until the content ends, be it longer or shorter than ``size``, which says how much is read at once.
    """
    sha256 = hashlib.sha256()
    with _temporary(place) as temporary, temporary.open("wb") as stream:
        for block in _blocks(read, size):
            sha256.update(block)
            stream.write(block)
    return sha256.hexdigest()


@contextmanager
def _temporary(place: Path) -> Iterator[Path]:
    """A file beside ``place`` that takes its place in the end, unless something goes wrong."""
    temporary = place.with_name(f"~{place.name[-64:]}.part")
    try:
        yield temporary
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


def _blocks(read: Callable[[int, int], bytes], size: int) -> Iterator[bytes]:
    """The content, block by block, a few of them fetched at once."""
    starts = iter(range(0, size + 1, BLOCK))  # one byte beyond, to notice what has grown
    if size < BLOCK:
        yield read(0, BLOCK)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while window := list(islice(starts, 2 * AT_ONCE)):
            yield from pool.map(lambda start: read(start, BLOCK), window)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, remembered for as long as its size and time stay the same."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """One process at a time; the lock of a process that dies is gone with it. Makes the folder of ``place``."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
