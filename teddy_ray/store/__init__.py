"""The store: a local folder or a bucket in S3 behind the same few verbs, records of artifacts, file formats.

    store = open_store("~/teddy")
    record = records.find(store, "base", digest) or records.commit(store, "base", digest, {"weights": data}, {})

Importing this is cheap; ``tensors``, ``images`` and ``labels`` bring torch and pyarrow along.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from teddy_ray.errors import UserError
from teddy_ray.store.base import Entry, MissingKeyError, Store
from teddy_ray.store.folder import FolderStore

__all__ = ["Entry", "FolderStore", "MissingKeyError", "Store", "open_store"]


def open_store(uri: str, *, known: bool = False) -> Store:
    """The store at a folder's path (``~`` is home), ``file://`` or ``s3://`` address; raises UserError.

    Nothing is asked of a server yet. ``known``: another process has just used it, so that it is waited for if it
    does not answer at once.
    """
    if not uri:
        raise UserError("the store has no name: give a folder, for example ./teddy, or s3://bucket/prefix")
    if "://" not in uri:
        return FolderStore(Path(os.path.expanduser(uri)))  # noqa: PTH111 - Path.expanduser raises for a user who is not here
    address = urlsplit(uri)
    if address.scheme == "s3":
        return _open_s3(uri, known=known)
    if address.scheme != "file" or address.netloc not in {"", "localhost"} or not address.path:
        raise UserError(
            f"the store {uri} cannot be opened: give a folder, as a path or as file:///path, or s3://bucket/prefix"
        )
    return FolderStore(Path(unquote(address.path)))


def _open_s3(uri: str, *, known: bool) -> Store:
    from teddy_ray.store.s3 import S3Store
    from teddy_ray.store.s3_client import expect_server

    store = S3Store.at(uri)
    if known:
        expect_server()
    return store
