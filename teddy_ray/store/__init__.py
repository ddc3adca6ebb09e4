"""The store: a local folder (S3 later) behind the same few verbs, records of artifacts, file formats.

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


def open_store(uri: str) -> Store:
    """The store at a folder's path (``~`` is home) or ``file://`` address; raises UserError for anything else."""
    if not uri:
        raise UserError("the store has no name: give a folder, for example ./teddy")
    if "://" not in uri:
        return FolderStore(Path(os.path.expanduser(uri)))  # noqa: PTH111 - Path.expanduser raises for a user who is not here
    address = urlsplit(uri)
    if address.scheme != "file" or address.netloc not in {"", "localhost"} or not address.path:
        raise UserError(f"the store {uri} cannot be opened: only folders can, as a path or as file:///path")
    return FolderStore(Path(unquote(address.path)))
