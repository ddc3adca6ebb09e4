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
        """All keys that begin with ``prefix``, in the order of their names; what goes away meanwhile is left out."""
        if prefix:
            check_key(prefix.removesuffix("/"))
        found = (path.relative_to(self.root).as_posix() for path in _files(self.root / prefix.rpartition("/")[0]))
        entries = (self.head(key) for key in sorted(found) if key.startswith(prefix) and is_key(key))
        return (entry for entry in entries if entry)

    def head(self, key: str) -> Entry | None:
        """What is known of ``key``, or None where it is not."""
        path = self.local_path(key)
        try:
            with explained(path):
                status = path.stat()
        except MissingKeyError:
            return None
        return Entry(key, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None

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


def _files(top: Path) -> Iterator[Path]:
    """Every file under ``top``; none where there is no such folder."""
    for folder, _, names in os.walk(top, onerror=_walk_failed):
        yield from (Path(folder, name) for name in names)


def _walk_failed(error: OSError) -> None:
    """Say what cannot be listed: an empty answer would have finished work done again."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise explain(error, Path(error.filename)) from error


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
