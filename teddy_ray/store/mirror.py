"""Somebody's files in S3 (a dataset, say), brought into the cache: names and bytes as they are there.

    root = fetch("s3://bucket/pictures", (".png", ".jpg"))       # a folder, or the file of that name

What is there already is verified and kept, so a fetch that was killed goes on where it was. The files of one state of
the bucket (names, sizes, ETags) have a folder of their own: whoever reads an older one is not disturbed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from teddy_ray.errors import UserError, WorldError
from teddy_ray.store import cache
from teddy_ray.store.bucket import Bucket, Object, split_address
from teddy_ray.store.folder import explained
from teddy_ray.store.s3_client import CONNECTIONS

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_WINDOW = 1000


@dataclass(frozen=True)
class RemoteFile:
    """A file below an address: its name from there on (empty: it is the address itself), and what S3 says of it."""

    name: str
    object: Object

    @property
    def stamp(self) -> tuple[str, int, str]:
        """Changes when the file does."""
        return self.name, self.object.size, self.object.etag


def files(uri: str, suffixes: Sequence[str]) -> list[RemoteFile]:
    """What is at or below ``uri`` and ends in one of ``suffixes``, by name, without what is hidden; reads no content.

    Raises UserError where there is nothing.
    """
    bucket, prefix = split_address(uri)
    one = Bucket(bucket).head(prefix) if prefix and not uri.endswith("/") else None
    if one is not None:
        return [RemoteFile("", one)]
    folder = f"{prefix}/" if prefix else ""
    found = (RemoteFile(item.key.removeprefix(folder), item) for item in Bucket(bucket).list(folder))
    wanted = [file for file in found if _is_wanted(file.name, suffixes)]
    if not wanted:
        raise UserError(f"there is nothing at {uri} that ends in {', '.join(suffixes)}")
    return wanted


def fetch(uri: str, suffixes: Sequence[str]) -> Path:
    """Where the files are on this disk; raises as ``files``."""
    found = files(uri, suffixes)
    bucket, prefix = split_address(uri)
    state = json.dumps([uri, [file.stamp for file in found]]).encode()
    place = cache.folder() / "mirrors" / hashlib.sha256(state).hexdigest()
    root = place / (prefix.rpartition("/")[2] or bucket)
    with explained(place), cache.locked(place):
        _Mirror(Bucket(bucket), root, place / "index.jsonl").bring(found)
    return root


def _is_wanted(name: str, suffixes: Sequence[str]) -> bool:
    parts = name.split("/")
    if not name.lower().endswith(tuple(suffixes)) or any(part.startswith(".") for part in parts if part != ".."):
        return False
    if any(part in {"", ".."} for part in parts):
        raise UserError(f"the name {name!r} cannot be a file's on this disk: rename it in the bucket")
    return True


@dataclass(frozen=True)
class _Mirror:
    """Files below ``root``; ``index`` has a line of JSON for each that is whole: its name and SHA-256."""

    bucket: Bucket
    root: Path
    index: Path

    def bring(self, found: Sequence[RemoteFile]) -> None:
        """Fetch what is not there yet; an interrupted fetch keeps what it has finished."""
        bring = partial(self._bring, self._have())
        self.index.parent.mkdir(parents=True, exist_ok=True)
        large = [file for file in found if file.object.size >= cache.BLOCK]  # whose blocks come many at once
        small = iter([file for file in found if file.object.size < cache.BLOCK])
        with self.index.open("a") as index, ThreadPoolExecutor(CONNECTIONS) as pool:
            while window := list(islice(small, _WINDOW)):
                index.writelines(pool.map(bring, window))
                index.flush()
            for file in large:
                index.write(bring(file))
                index.flush()

    def _have(self) -> dict[str, str]:
        """The index; a line that was cut off counts for nothing."""
        have: dict[str, str] = {}
        for line in self.index.read_text().splitlines() if self.index.exists() else []:
            with suppress(ValueError):
                name, sha256 = json.loads(line)
                have[name] = sha256
        return have

    def _bring(self, have: dict[str, str], file: RemoteFile) -> str:
        """One file; the line to add to the index."""
        place = self.root / file.name if file.name else self.root
        if file.name in have and place.exists() and cache.sha256_of(place) == have[file.name]:
            return ""
        place.parent.mkdir(parents=True, exist_ok=True)
        item, read = file.object, partial(self._read, file.object)
        sha256 = cache.download(read, item.size, place)
        if place.stat().st_size != item.size:
            raise WorldError(f"s3://{self.bucket.name}/{item.key} came in another size: run the same command again")
        self._check(item, place, sha256)
        return f"\n{json.dumps([file.name, sha256])}\n"

    def _read(self, item: Object, start: int, length: int) -> bytes:
        return self.bucket.get(item.key, start=start, length=length, etag=item.etag)

    def _check(self, item: Object, place: Path, sha256: str) -> None:
        """An ETag that looks like an MD5 mostly is one, but not where the bucket encrypts: then two fetches agree."""
        md5 = _MD5.fullmatch(item.etag)
        if md5 is None or _md5(place) == md5[1]:
            return
        if cache.download(partial(self._read, item), item.size, place) != sha256:
            raise WorldError(f"s3://{self.bucket.name}/{item.key} is damaged on its way: run the same command again")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
