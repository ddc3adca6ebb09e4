"""A store in a folder of this machine, or of a file system that many machines mount.

Content is written to a temporary file beside its final place, flushed to the disk, then put in place in one step: by a
hard link where the first one wins, by a rename where the last one does. A temporary file's name has a ``~``, which no
key may have, so that whatever a killed process leaves behind is nobody's key.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from teddy_ray.errors import UserError, WorldError
from teddy_ray.store.base import Entry, MissingKeyError, check_key, is_key

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_FOLDER = {errno.ENOTDIR, errno.EEXIST}
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_BLOCK = 1 << 20


@dataclass(frozen=True)
class FolderStore:
    """The store under ``root``, which the first write creates. Equal where the root is."""

    root: Path

    def __post_init__(self) -> None:
        """Refuse a root that is no folder, before any work is done for it."""
        object.__setattr__(self, "root", self.root.absolute())
        if os.path.lexists(self.root) and not os.path.isdir(self.root):  # noqa: PTH112 - Path.is_dir may raise
            raise UserError(f"the store {self.root} is not a folder: name a folder, or remove what is in its place")

    @property
    def uri(self) -> str:
        """The root's absolute path."""
        return str(self.root)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write ``data`` unless ``key`` is there; on the disk when this returns, with all that its folder has."""
        with self._temporary(key) as (temporary, final):
            _write(temporary, io.BytesIO(data))
            won = _link_if_absent(temporary, final)
            _sync_folder(final.parent)
        return won

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write ``data``, in place of what is there."""
        with self._temporary(key) as (temporary, final):
            _write(temporary, io.BytesIO(data))
            temporary.replace(final)

    def put_file(self, key: str, path: Path) -> None:
        """Write the content of the file at ``path``, in place of what is there."""
        with self._temporary(key) as (temporary, final), path.open("rb") as content:
            _write(temporary, content)
            temporary.replace(final)

    def get(self, key: str) -> bytes:
        """The content; raises MissingKeyError."""
        path = self.local_path(key)
        with explained(path):
            return path.read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """At most ``length`` bytes from ``start``, fewer where the content ends before; raises MissingKeyError."""
        path = self.local_path(key)
        with explained(path), path.open("rb") as stream:
            stream.seek(start)
            return stream.read(length)

    def list(self, prefix: str) -> Iterator[Entry]:
        """All keys that begin with ``prefix``, in the order of their names; what goes away meanwhile is left out.

        Looks at nothing but those, and at each only when asked for: a store has many runs.
        """
        if prefix:
            check_key(prefix.removesuffix("/"))
        folder, slash, beginning = prefix.rpartition("/")
        return _entries(self.root / folder, folder + slash, beginning)

    def head(self, key: str) -> Entry | None:
        """What is known of ``key``, or None where it is not."""
        return _entry(self.local_path(key), key)

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not."""
        path = self.local_path(key)
        with suppress(MissingKeyError), explained(path):
            path.unlink()

    def copy(self, source_key: str, key: str) -> None:
        """Make ``key`` what ``source_key`` is: a second name for the same bytes where there are hard links."""
        source = self.local_path(source_key)
        with self._temporary(key) as (temporary, final):
            try:
                temporary.hardlink_to(source)
            except OSError:  # no hard links, too many, another's file: whatever it is, a copy works or says why not
                with source.open("rb") as content:
                    _write(temporary, content)
            temporary.replace(final)

    def local_path(self, key: str) -> Path:
        """Where the content lies."""
        return self.root / check_key(key)

    @contextmanager
    def _temporary(self, key: str) -> Iterator[tuple[Path, Path]]:
        """A free name beside the key's place, and that place; what still has the name afterwards is removed."""
        final = self.local_path(key)
        temporary = final.with_name(f"~{secrets.token_hex(8)}")
        with explained(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield temporary, final
            finally:
                temporary.unlink(missing_ok=True)


def _write(path: Path, content: BinaryIO) -> None:
    """A new file with ``content``, on the disk when this returns."""
    with path.open("xb") as stream:
        shutil.copyfileobj(content, stream, _BLOCK)
        stream.flush()
        os.fsync(stream.fileno())


def _link_if_absent(temporary: Path, final: Path) -> bool:
    """Give the finished file its final name unless that is taken."""
    try:
        final.hardlink_to(temporary)
    except FileExistsError:
        # Over NFS the answer to a link that was made may get lost, and the repeated request then finds its own work:
        # the number of names says whose it is.
        return temporary.stat().st_nlink > 1
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise UserError(
                f"the file system of {final.parent} has no hard links ({error.strerror}), "
                "without which two writers could both win: choose a folder on another one"
            ) from error
        raise
    return True


def _sync_folder(folder: Path) -> None:
    """Have the disk keep the folder's names too, where the file system can be asked to."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def _entries(folder: str | Path, above: str, beginning: str = "") -> Iterator[Entry]:
    """What is under ``folder``, whose key is ``above``, with names that begin so; nothing where it is not there.

    A folder sorts by its name with the slash behind it, which is where its keys belong among the others.
    """
    found = _scan(folder, beginning)
    for name in sorted(found):
        if name.endswith("/"):
            yield from _entries(found[name].path, above + name)
        elif entry := _entry(found[name], above + name):
            yield entry


def _entry(item: os.DirEntry[str] | Path, key: str) -> Entry | None:
    """What is known of a file; None where it is none, or gone."""
    try:
        with explained(Path(item)):
            status = item.stat()
    except MissingKeyError:
        return None
    return Entry(key, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None


def _scan(folder: str | Path, beginning: str) -> dict[str, os.DirEntry[str]]:
    """A folder's entries that may be of a key, by name; a folder's name with a slash behind it."""
    try:
        with os.scandir(folder) as items:
            chosen = [item for item in items if item.name.startswith(beginning) and is_key(item.name)]
            return {item.name + "/" * item.is_dir(follow_symlinks=False): item for item in chosen}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:  # an empty answer would have finished work done again
        raise explain(error, Path(folder)) from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system says about ``path`` into a sentence."""
    try:
        yield
    except OSError as error:
        raise explain(error, path) from error


def explain(error: OSError, path: Path) -> UserError | WorldError:
    """The sentence for an operating system's error at ``path``."""
    if isinstance(error, FileNotFoundError):
        return MissingKeyError(f"there is no file {error.filename or path}")
    if isinstance(error, IsADirectoryError):
        return MissingKeyError(f"there is no file {path}, but a folder")
    if error.errno in _FULL:
        return WorldError(
            f"disk full at {path} ({error.strerror}): "
            "free space and run the same command again, what is finished is kept"
        )
    if error.errno in _DENIED:
        return UserError(f"no right to use {path} ({error.strerror}): choose another folder or change its permissions")
    if error.errno in _NO_FOLDER:
        return UserError(f"a part of {path} is a file where a folder must be: choose another folder")
    return WorldError(f"{path} failed: {error.strerror or error}; run the same command again, what is finished is kept")
