"""A run's manifest: the last thing that a run writes, and the first that its readers ask for.

manifest = load(store, run)                      # None while the run is not finished
manifest.only(["labels"])                        # name in the run's folder -> File
results(store, manifest)["scores"]
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from teddy_ray.errors import WorldError
from teddy_ray.store import MissingKeyError, Store, records
from teddy_ray.store.base import check_key
from teddy_ray.store.records import File
from teddy_ray.store.sealed import opened, seal

GROUPS = {
    "images": ("dataset/",),
    "labels": ("labels/",),
    "report": ("report/", "results.json", "spec.json"),
    "pool": ("pool/",),
}
"""What ``--only`` may ask for, and where it is among the published files."""


@dataclass(frozen=True)
class Manifest:
    """That a run is finished: every file that it published, by name, and every record that it rests on."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    run: str
    spec_digest: str
    files: dict[str, File]
    records: list[str]
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        """A manifest from elsewhere must not lead out of the store, nor out of the folder that it is pulled into."""
        for key in (*self.files, *self.records):
            check_key(key)
        if "results.json" not in self.files:
            raise ValueError("it lists no results.json")

    def to_json(self) -> bytes:
        """The same bytes for equal manifests."""
        return seal(asdict(self))

    def only(self, groups: Iterable[str]) -> dict[str, File]:
        """The published files of these of GROUPS; all of them, where none is named."""
        beginnings = tuple(beginning for group in groups for beginning in GROUPS[group]) or ("",)
        return {name: file for name, file in self.files.items() if name.startswith(beginnings)}


_MANIFEST = TypeAdapter(Manifest)


def key_of(run: str) -> str:
    """Where a run's manifest is."""
    return f"runs/{run}/manifest.json"


def parse(data: bytes) -> Manifest:
    """What ``to_json`` wrote; ValueError says what is wrong with anything else."""
    try:
        return _MANIFEST.validate_json(json.dumps(opened(data)))
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from error


def load(store: Store, run: str) -> Manifest | None:
    """The manifest of a finished run, or None; WorldError where it is damaged or another's."""
    try:
        data = store.get(key_of(run))
    except MissingKeyError:
        return None
    try:
        manifest = parse(data)
        if manifest.run != run:
            raise ValueError(f"it is that of {manifest.run}")
    except ValueError as error:
        raise WorldError(
            f"the manifest {store.uri}/{key_of(run)} is damaged or of another version ({error}): remove it and run"
            " the same command again, which makes it anew"
        ) from error
    return manifest


def results(store: Store, manifest: Manifest) -> dict[str, Any]:
    """The run's results.json, verified."""
    found: dict[str, Any] = json.loads(records.read(store, manifest.files["results.json"]))
    return found
