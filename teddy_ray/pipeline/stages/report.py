"""report: what people look at: the dataset and its labels under their own names, the page, the card, the tables.

What is rendered is an artifact like any other, so that of two attempts that end together one is right, and a manifest
stays true when its run is carried out again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath

from teddy_ray import report
from teddy_ray.errors import WorldError
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.context import Context
from teddy_ray.pipeline.imagesets import read
from teddy_ray.pipeline.manifest import Manifest
from teddy_ray.pipeline.results import Made, Results
from teddy_ray.store import MissingKeyError, Store, records
from teddy_ray.store.records import File, Record

TRIES = 5


@dataclass(frozen=True)
class Publication:
    """The files that are copied into a run's folder, by their names there, and the manifest that lists them."""

    folder: str
    files: dict[str, File]
    manifest: bytes

    def finish(self, store: Store) -> None:
        """Put the manifest, last of all.

        Attempts at a run that end together share their records, and so publish the same. Only where a record was
        removed and made anew meanwhile may another attempt's manifest, of other bytes, stand in the way: then ours, the
        later one, takes its place, files first.
        """
        for _ in range(TRIES):
            if store.put_if_absent(self._key, self.manifest) or _standing(store, self._key) == self.manifest:
                return
            self.copy(store)
        raise WorldError(
            f"another attempt publishes other bytes in {store.uri}/{self.folder} all the time: let it end, and run the"
            " same command again, what is finished is kept"
        )

    def copy(self, store: Store) -> None:
        """Put the files under their names: all of them, or where this manifest stands, what is missing."""
        finished = _standing(store, self._key) == self.manifest
        if not finished:
            # A manifest of other files, made when an artifact had other bytes, would be wrong from the next line on.
            store.delete(self._key)
        for name, file in self.files.items():
            there = store.head(f"{self.folder}/{name}") if finished else None
            if there is None or there.size != file.size:
                store.copy(file.key, f"{self.folder}/{name}")

    @property
    def _key(self) -> str:
        return f"{self.folder}/manifest.json"


def write(context: Context, folder: str, results: Results, made: Made) -> Publication:
    """Publish everything under the run's folder but the manifest, which is true as soon as it is written.

    The manifest names every file with its key, size and SHA-256. Members stay where they are: nobody looks for them
    beside the images, and they are large.
    """
    page = _rendered(context, results, made)
    published = _published(page, made)
    spec = context.store.get(f"{folder}/spec.json")
    files = {
        "spec.json": File(f"{folder}/spec.json", len(spec), hashlib.sha256(spec).hexdigest()),
        **{name: File(f"{folder}/{name}", file.size, file.sha256) for name, file in published.items()},
        **_members(made),
    }
    keys = [*made.keys(), addresses.record_key(page.stage, page.digest)]
    manifest = Manifest(results["run"], results["spec_digest"], files, keys)
    publication = Publication(folder, published, manifest.to_json())
    publication.copy(context.store)
    return publication


def _rendered(context: Context, results: Results, made: Made) -> Record:
    """The record of the page, the card and the tables; they show what the first attempt to come here has seen."""
    sources = [hashlib.sha256(record.to_json()).hexdigest() for record in made.all()]
    digest = addresses.report(results["run"], sources)
    found = records.find(context.store, "report", digest)
    if found is not None:
        return found
    pictures, _ = read(context, made.sets["distilled"])
    return records.commit(context.store, "report", digest, report.render(results, pictures), {"run": results["run"]})


def _published(page: Record, made: Made) -> dict[str, File]:
    """What is copied into the run's folder, by its name there."""
    shards = made.labels["distilled"]
    return {
        **{f"dataset/data/{name}": file for name, file in made.sets["distilled"].files.items()},
        **{
            f"labels/labels-{index:05d}-of-{len(shards):05d}.parquet": shard.files["labels.parquet"]
            for index, shard in enumerate(shards)
        },
        "dataset/README.md": page.files["README.md"],
        **{f"report/{name}": file for name, file in page.files.items() if name != "README.md"},
        "results.json": page.files["results.json"],
    }


def _members(made: Made) -> dict[str, File]:
    """The weights of the base and of the pool's members, by their names."""
    return {
        f"pool/{record.meta.get('name', record.stage)}{PurePosixPath(name).suffix}": file
        for record in (made.base, *made.pool)
        for name, file in record.files.items()
    }


def _standing(store: Store, key: str) -> bytes | None:
    """The manifest that is there."""
    try:
        return store.get(key)
    except MissingKeyError:
        return None
