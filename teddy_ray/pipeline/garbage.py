"""What nobody needs in a store any more: artifacts of no run, files of no artifact, what killed writers left.

    garbage = find(store, older_than=7 * 86400)
    remove(store, garbage)

Kept is what a finished run's manifest names, what a run that is at work has claimed (``runs/<run>/records/``), and all
that is younger than ``older_than`` seconds. A run is at work until it has been silent for that long. What is in
``runs/`` is never touched. A run that begins to reuse an old artifact in the moment in which that is removed may lose
it; ``remove`` looks for claims once more to keep that moment short.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline import manifest as manifests
from teddy_ray.pipeline.runs import READERS, Files, listing
from teddy_ray.store import Entry, Store, leftovers, records
from teddy_ray.store.leftovers import Leftover


@dataclass(frozen=True)
class Garbage:
    """What may go. ``artifacts`` and ``files`` are keys, a record before its files; ``leftovers`` are under no key.

    ``trouble`` says why leftovers could not be looked for, where that was so: not everybody may list uploads.
    """

    artifacts: list[Entry]
    files: list[Entry]
    leftovers: list[Leftover]
    older_than: float
    trouble: str = ""

    @property
    def all(self) -> list[Entry]:
        return [*self.artifacts, *self.files, *self.leftovers]

    @property
    def size(self) -> int:
        """In bytes. Of two names for the same bytes in a folder, both count."""
        return sum(entry.size for entry in self.all)


@dataclass(frozen=True)
class _Kept:
    """The keys of records that runs rest on, of all files that those records or a manifest name."""

    records: set[str]
    files: set[str]


def find(store: Store, *, older_than: float) -> Garbage:
    """What is older than ``older_than`` seconds and nobody's; WorldError where what a run needs cannot be read."""
    cutoff = time.time() - older_than
    folders = _folders(store)
    kept = _kept(store, cutoff, set(folders))
    artifacts: list[Entry] = []
    files: list[Entry] = []
    for key, entries in folders.items():
        unnamed = [entry for entry in entries if entry.key not in kept.files and entry.modified < cutoff]
        if key not in kept.records:
            young = any(entry.modified >= cutoff for entry in entries)
            artifacts += [] if young else sorted(unnamed, key=lambda entry: entry.key != key)
        elif any(entry.key == key for entry in entries):  # until the record is there, its files are in the making
            files += [entry for entry in unnamed if entry.key != key]
    try:
        old, trouble = [entry for entry in leftovers.leftovers(store) if entry.modified < cutoff], ""
    except (UserError, WorldError) as error:
        old, trouble = [], str(error)
    return Garbage(artifacts, files, old, older_than, trouble)


def remove(store: Store, garbage: Garbage) -> Garbage:
    """Remove what is still garbage, records first; returns that."""
    still = set(find(store, older_than=garbage.older_than).all)
    doomed = Garbage(
        [entry for entry in garbage.artifacts if entry in still],
        [entry for entry in garbage.files if entry in still],
        [entry for entry in garbage.leftovers if entry in still],
        garbage.older_than,
        garbage.trouble,
    )
    committing = [entry.key for entry in doomed.artifacts if entry.key.endswith("/record.json")]
    others = [entry.key for entry in (*doomed.artifacts, *doomed.files) if entry.key not in set(committing)]
    with ThreadPoolExecutor(READERS) as threads:
        for keys in (committing, others):
            list(threads.map(store.delete, keys))
    for leftover in doomed.leftovers:
        leftovers.remove(store, leftover)
    return doomed


def _folders(store: Store) -> dict[str, list[Entry]]:
    """What every artifact's folder holds, by the key of its record, be that there or not."""
    found: dict[str, list[Entry]] = {}
    for entry in store.list("artifacts/"):
        parts = entry.key.split("/")
        if len(parts) == 4:  # anything else is not ours
            found.setdefault("/".join([*parts[:3], "record.json"]), []).append(entry)
    return found


def _kept(store: Store, cutoff: float, there: set[str]) -> _Kept:
    """What runs need."""
    wanted: set[str] = set()
    files: set[str] = set()
    for run, entries in listing(store).items():
        manifest = manifests.load(store, run) if "manifest.json" in entries else None
        if manifest is not None:
            wanted |= set(manifest.records)
            files |= {file.key for file in manifest.files.values()}
        elif max(entry.modified for entry in entries.values()) >= cutoff:
            wanted |= _claims(store, entries)
    with ThreadPoolExecutor(READERS) as threads:
        named = threads.map(lambda key: _files_of(store, key), sorted(wanted & there))
        return _Kept(wanted, files.union(wanted, *named))


def _claims(store: Store, entries: Files) -> set[str]:
    """The records that a run at work makes or takes."""
    found: set[str] = set()
    for name, entry in entries.items():
        if name.startswith("records/"):
            try:
                found |= set(json.loads(store.get(entry.key)))
            except (ValueError, TypeError) as error:
                raise WorldError(f"{store.uri}/{entry.key} is damaged ({error}): nothing was removed") from error
    return found


def _files_of(store: Store, key: str) -> Iterable[str]:
    """The files that the record at ``key`` names, here or in another artifact."""
    _, stage, digest, _ = key.split("/")
    record = records.find(store, stage, digest)
    return [file.key for file in record.files.values()] if record else []
