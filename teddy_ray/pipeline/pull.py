"""What a run published, brought from the store to a folder: in parallel, resumable, verified, and only what is missing.

    pulled = pull(store, run, Path("out"), only=["labels"], told=print)

The manifest comes first, as ``manifest.json.part``, and gets its own name when everything that was asked for is there.
A file that an earlier pull of the same run verified is not read again, unless ``verify`` asks for that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline import manifest as manifests
from teddy_ray.pipeline.manifest import Manifest
from teddy_ray.store import Store, records
from teddy_ray.store.download import ChangedError, download, is_there
from teddy_ray.store.folder import explained
from teddy_ray.store.records import File

THREADS = 8

Told = Callable[[str, int, int], None]
"""Hears a file's name, how many of its bytes are there, and how many it has."""


@dataclass
class Pulled:
    """What a pull did: the names it fetched, those of them that were there and wrong, and how many bytes came."""

    fetched: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    transferred: int = 0


def pull(
    store: Store, run: str, out: Path, *, only: Collection[str] = (), verify: bool = False, told: Told | None = None
) -> Pulled:
    """Bring the published files of ``run``, or those of the groups ``only``, to the folder ``out``.

    Raises UserError where the run is not finished or ``out`` holds another, WorldError naming each file whose bytes in
    the store are not what the run wrote; the others are in place then.
    """
    manifest = manifests.load(store, run)
    if manifest is None:
        raise UserError(f"the run {run} is not finished, so there is nothing to pull yet: see teddy-cloud status {run}")
    before = _begin(out, manifest)
    fetching = _Fetching(store, out, manifest.only(only), {} if verify else before, told or (lambda *_: None))
    changed = fetching.all()
    if changed:
        raise WorldError("; ".join(_explained_change(store, manifest, name) for name in sorted(changed)))
    (out / "manifest.json.part").replace(out / "manifest.json")
    return fetching.pulled


def _begin(out: Path, manifest: Manifest) -> Mapping[str, File]:
    """Leave word of what ``out`` is to hold; the files that an earlier pull has finished with."""
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        found = {path.name: _local(path) for path in out.glob("manifest.json*") if path.is_file()}
        for other in found.values():
            if other.run != manifest.run:
                raise UserError(f"{out} holds the run {other.run}: pull {manifest.run} into another folder")
        (out / "manifest.json.part").write_bytes(manifest.to_json())
    return found["manifest.json"].files if "manifest.json" in found else {}


def _local(path: Path) -> Manifest:
    """The manifest that an earlier pull has left."""
    try:
        return manifests.parse(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not a run's manifest ({error}): pull into another folder, or remove it") from error


class _Fetching:
    """A pull on its way. ``trusted`` are the files that an earlier one has verified."""

    def __init__(
        self, store: Store, out: Path, files: Mapping[str, File], trusted: Mapping[str, File], told: Told
    ) -> None:
        self.store, self.out, self.files, self.trusted, self.told = store, out, files, trusted, told
        self.pulled = Pulled()
        self.stopped = False

    def all(self) -> list[str]:
        """Fetch what is missing, the largest first; the names of those whose bytes are wrong in the store."""
        with ThreadPoolExecutor(THREADS) as threads:
            names = sorted(self.files, key=lambda name: self.files[name].size, reverse=True)
            for name in names:  # so that what there is to do is known from the beginning
                self.told(name, 0, self.files[name].size)
            futures = {threads.submit(self._one, name): name for name in names}
            try:
                return [futures[done] for done in as_completed(futures) if not self._done(futures[done], done)]
            except BaseException:
                self.stopped = True
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, name: str) -> tuple[int | None, bool]:
        """Make sure of a file; how many bytes had to come, if any, and whether something else was in its place."""
        file, target = self.files[name], self.out / name
        if _is_right(file, target, trusted=self.trusted.get(name)):
            self.told(name, file.size, file.size)
            return None, False
        before = target.exists()
        return download(self.store, file, target, told=lambda here: self._tell(name, here)), before

    def _tell(self, name: str, here: int) -> None:
        if self.stopped:
            raise _StoppedError
        self.told(name, here, self.files[name].size)

    def _done(self, name: str, future: Future[tuple[int | None, bool]]) -> bool:
        """Take note of a file; False where its bytes are wrong in the store."""
        try:
            come, replaced = future.result()
        except ChangedError:
            return False
        (self.pulled.kept if come is None else self.pulled.fetched).append(name)
        self.pulled.transferred += come or 0
        if replaced:
            self.pulled.replaced.append(name)
        return True


class _StoppedError(Exception):
    """Ends the other downloads when one has failed; nobody sees it."""


def _is_right(file: File, target: Path, *, trusted: File | None) -> bool:
    """Whether ``target`` need not be fetched."""
    if trusted is not None and trusted.sha256 == file.sha256:
        with explained(target):
            return target.is_file() and target.stat().st_size == file.size
    return is_there(file, target)


def _explained_change(store: Store, manifest: Manifest, name: str) -> str:
    """The sentence for a published file whose bytes in the store are wrong, and what to do about it."""
    file = manifest.files[name]
    made_by = _record_of(store, manifest, file)
    more = f"; should it be wrong still, remove {made_by} too" if made_by else ""
    return (
        f"{name} is not what the run wrote: {store.uri}/{file.key} has another SHA-256. Remove"
        f" {manifests.key_of(manifest.run)} there and run the same command again, which publishes it anew{more}"
    )


def _record_of(store: Store, manifest: Manifest, file: File) -> str | None:
    """The record of the artifact that a published file is a copy of."""
    for key in manifest.records:
        _, stage, digest, _ = key.split("/")
        record = records.find(store, stage, digest)
        if record and any(made.sha256 == file.sha256 for made in record.files.values()):
            return key
    return None
