"""Records: the small JSON files that say that an artifact is there, whole, and what its bytes are.

    record = commit(store, "base", digest, {"weights": tensors.to_bytes(state), "checkpoint": path}, {"accuracy": 98.2})
    find(store, "base", digest).meta["accuracy"]
    tensors.from_bytes(read(store, record.files["weights"]))

Data goes first, to ``artifacts/<stage>/<digest>/<first 16 hex of its SHA-256>-<name>``, then ``record.json`` if absent.
As data is named by content, two writers of the same bytes do no harm, and two of different bytes do not mix: the first
record wins, and what it does not name is nobody's. A run that dies between the two leaves only such files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from teddy_ray.errors import WorldError
from teddy_ray.store import cache
from teddy_ray.store.base import Entry, MissingKeyError, Store, check_key
from teddy_ray.store.sealed import opened, seal

_BLOCK = 16 << 20
_PAGE = 1000
"""Keys that a server lists at a time."""
_AT_ONCE = 16


@dataclass(frozen=True)
class File:
    """A file of an artifact: where it is in the store, and what its bytes must be."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    key: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        """A record from elsewhere must not lead out of the store."""
        check_key(self.key)


@dataclass(frozen=True)
class Record:
    """That an artifact is there. ``meta`` is JSON as it is read back (tuples are lists); ``created``, ISO 8601 UTC."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    stage: str
    digest: str
    files: dict[str, File]
    meta: dict[str, Any]
    created: str
    format: Literal[1] = 1

    def to_json(self) -> bytes:
        """The same bytes for equal records."""
        return seal(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Record:
        """What ``to_json`` wrote; ValueError says what is wrong with anything else."""
        try:
            return _RECORD.validate_json(json.dumps(opened(data)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error


_RECORD = TypeAdapter(Record)


def find(store: Store, stage: str, digest: str) -> Record | None:
    """The record of an artifact, or None where it is not made yet; WorldError where the record is damaged."""
    try:
        return _load(store, _record_key(stage, digest))
    except MissingKeyError:
        return None


def keys_of(store: Store, stage: str) -> frozenset[str] | None:
    """All that a store elsewhere has of a stage, if that takes one request; None where it is better to ask for each."""
    if store.local_path("artifacts") is not None:
        return None
    listed = [entry.key for entry in islice(store.list(f"artifacts/{stage}/"), _PAGE)]
    return frozenset(listed) if len(listed) < _PAGE else None


def find_among(
    store: Store, stage: str, digests: Iterable[str], *, keys: frozenset[str] | None = None
) -> dict[str, Record]:
    """Those of ``digests`` that are made, read many at once; what is not among ``keys`` is not asked for."""
    wanted = [digest for digest in dict.fromkeys(digests) if keys is None or _record_key(stage, digest) in keys]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda digest: find(store, stage, digest), wanted)
        return {record.digest: record for record in found if record is not None}


def find_all(store: Store, stage: str) -> Iterator[Record]:
    """Every record of a stage, in the order of their digests."""
    keys = [entry.key for entry in store.list(f"artifacts/{stage}/")]
    return (_load(store, key) for key in keys if key.endswith("/record.json"))


def commit(
    store: Store, stage: str, digest: str, files: Mapping[str, bytes | Path | File], meta: Mapping[str, Any]
) -> Record:
    """Write an artifact and its record, and return the record that is there then: of many writers, the first one's.

    A File of another record is referred to, not copied. Nothing of a half-written artifact is ever found.
    """
    written = {name: _put(store, stage, digest, name, content) for name, content in files.items()}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    data = Record(stage, digest, written, dict(meta), created).to_json()
    key = _record_key(stage, digest)
    if store.put_if_absent(key, data):
        return _remembered(store, key, Record.from_json(data))
    winner = _load(store, key)
    named = {file.key for file in winner.files.values()}
    for name, file in written.items():
        if file.key not in named and not isinstance(files[name], File):
            store.delete(file.key)
    return winner


def read(store: Store, file: File) -> bytes:
    """The file's bytes; WorldError naming the key where they are missing or are not what was written."""
    if store.local_path(file.key) is None:
        return path(store, file).read_bytes()
    data = store.get(file.key)
    _check(store, file, hashlib.sha256(data).hexdigest())
    return data


def path(store: Store, file: File) -> Path:
    """Where the file lies here, to map it into memory: in the store's folder, or in the cache. Fails as ``read``.

    Its bytes are checked when a process first asks, and again only if the file's size or time has changed since.
    """
    local = store.local_path(file.key)
    if local is None:
        copy = cache.fetch(store, file.key, size=file.size, sha256=file.sha256)
        if copy is None:
            raise _changed(store, file)
        return copy
    entry = store.head(file.key)
    if entry is None:
        raise MissingKeyError(f"there is no file {local}")
    _check(store, file, _sha256_of(store, entry))
    return local


def delete(store: Store, record: Record) -> None:
    """Remove an artifact: its record first, then its own files; not those that it refers to in another artifact.

    Not while a run that makes the same artifact is at work: it may just have found what is then removed.
    """
    store.delete(_record_key(record.stage, record.digest))
    _known.pop((store, _record_key(record.stage, record.digest)), None)
    for file in record.files.values():
        if file.key.startswith(_folder(record.stage, record.digest)):
            store.delete(file.key)


def _folder(stage: str, digest: str) -> str:
    """Where an artifact's own files are, with the last ``/``."""
    return f"artifacts/{stage}/{digest}/"


def _record_key(stage: str, digest: str) -> str:
    """Where an artifact's record is."""
    return f"{_folder(stage, digest)}record.json"


def _load(store: Store, key: str) -> Record:
    """The record at ``key``; raises MissingKeyError, and WorldError where it is damaged or another's."""
    if (store, key) in _known:
        return _known[store, key]
    data = store.get(key)
    try:
        record = Record.from_json(data)
        if _record_key(record.stage, record.digest) != key:
            raise ValueError(f"it is the record of {record.stage} {record.digest}")
    except ValueError as error:
        raise WorldError(
            f"the record {store.uri}/{key} is damaged or of another version ({error}): "
            "remove it and run the same command again, which makes it anew"
        ) from error
    return _remembered(store, key, record)


_known: dict[tuple[Store, str], Record] = {}
"""Records of stores elsewhere that this process has seen: a record does not change, and each look costs a request."""


def seen(store: Store, *, but: Collection[str] = ()) -> list[bytes]:
    """The records of a store elsewhere that this process has seen, except those of the stages ``but``."""
    return [record.to_json() for (of, _), record in _known.items() if of == store and record.stage not in but]


def remember(store: Store, data: bytes) -> None:
    """Take note of a record that another process has seen, so that this one need not ask for it."""
    record = Record.from_json(data)
    _remembered(store, _record_key(record.stage, record.digest), record)


def _remembered(store: Store, key: str, record: Record) -> Record:
    if store.local_path(key) is None:
        _known[store, key] = record
    return record


def _put(store: Store, stage: str, digest: str, name: str, content: bytes | Path | File) -> File:
    """Write one file to its content's name. It is written even if there: it may be there because it was damaged."""
    if isinstance(content, File):
        return content
    if isinstance(content, Path):
        with content.open("rb") as stream:
            sha256, size = hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()
    else:
        sha256, size = hashlib.sha256(content).hexdigest(), len(content)
    key = f"{_folder(stage, digest)}{sha256[:16]}-{name}"
    if isinstance(content, Path):
        store.put_file(key, content)
    else:
        store.put_bytes(key, content)
    if store.local_path(key) is None:
        cache.keep(content, sha256)  # whoever makes something mostly goes on with it
    return File(key, size, sha256)


@lru_cache(maxsize=4096)
def _sha256_of(store: Store, entry: Entry) -> str:
    """The SHA-256 of a key's bytes as they are now, remembered for as long as the entry says the same."""
    sha256 = hashlib.sha256()
    for start in range(0, entry.size, _BLOCK):
        sha256.update(store.get_range(entry.key, start, _BLOCK))
    return sha256.hexdigest()


def _check(store: Store, file: File, sha256: str) -> None:
    """WorldError where these are not the bytes that were committed."""
    if sha256 != file.sha256:
        raise _changed(store, file)


def _changed(store: Store, file: File) -> WorldError:
    folder = file.key.rpartition("/")[0]
    return WorldError(
        f"{store.uri}/{file.key} has changed since it was written (its SHA-256 is another): "
        f"remove {folder}/record.json there and run the same command again, which makes it anew"
    )
