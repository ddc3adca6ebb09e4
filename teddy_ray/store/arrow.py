"""A folder of a store as a pyarrow file system, lent to a library that writes by itself: ray.train does.

    with lent(store, "ray-train/digits-ipc1/3f2a") as (files, path):
        RunConfig(storage_path=path, storage_filesystem=files)

What was written there is removed at the end; what a killed process leaves is for ``gc``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from teddy_ray.errors import UserError, WorldError
from teddy_ray.store.base import Store, check_key
from teddy_ray.store.leftovers import LENT
from teddy_ray.store.s3 import S3Store
from teddy_ray.store.s3_client import CONNECT_SECONDS, READ_SECONDS, connection, is_amazon

_RENEWED = {"assume-role-with-web-identity", "container-role", "iam-role"}
"""Sources of credentials that expire within hours, and that Amazon's C++ library knows, and renews, too."""


@contextmanager
def lent(store: Store, name: str) -> Iterator[tuple[fs.FileSystem | None, str]]:
    """The file system (None: the local one) and the path in it of ``name``, which begins with ``LENT`` and is new."""
    check_key(name)
    if not name.startswith(LENT):
        raise ValueError(f"{name} is not under {LENT}, where gc looks")
    if isinstance(store, S3Store):
        prefix = f"{store.prefix}/{name}".lstrip("/")
        try:
            yield S3Files(), f"{store.bucket.name}/{prefix}"
        finally:
            with suppress(UserError, WorldError):  # a run is not lost for that
                for item in store.bucket.list(f"{prefix}/"):
                    store.bucket.delete(item.key)
        return
    folder = store.local_path(name)
    if folder is None:
        raise TypeError(f"{store.uri} is neither a folder nor in S3")
    try:
        yield None, str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents[: name.count("/")]:
            with suppress(OSError):  # others are at work there
                parent.rmdir()


class S3Files(fs.S3FileSystem):  # type: ignore[misc]
    """S3 as this process's boto3 client reaches it: the same endpoint, region and credentials.

    It travels to another process as its name alone, and asks for credentials anew there: no key is ever in a pickle.
    """

    def __init__(self) -> None:
        found = settings()
        if "endpoint_override" in found:
            # Amazon's library would send checksums after the body, which others may take for the next request's
            # beginning. pyarrow has no word for it, and the library no ear but the environment.
            os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
            os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
        super().__init__(**found)

    def __reduce__(self) -> tuple[type[S3Files], tuple[()]]:
        return S3Files, ()

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        """Nothing: S3 needs no folders, and pyarrow would leave an empty object for each."""


def settings() -> dict[str, Any]:
    """pyarrow's words for how boto3 is set up here."""
    ours = connection()
    found: dict[str, Any] = {
        "region": ours.client.meta.region_name,
        "connect_timeout": CONNECT_SECONDS,
        "request_timeout": READ_SECONDS,
        "tls_ca_file_path": os.environ.get("AWS_CA_BUNDLE"),
        "allow_delayed_open": True,  # small files in one request, not four
    }
    endpoint = ours.client.meta.endpoint_url
    if not is_amazon(endpoint):
        parts = urlsplit(endpoint)
        found |= {"scheme": parts.scheme, "endpoint_override": endpoint.removeprefix(f"{parts.scheme}://").rstrip("/")}
    credentials = ours.session.get_credentials()
    if credentials is not None and credentials.method not in _RENEWED:
        keys = credentials.get_frozen_credentials()
        found |= {"access_key": keys.access_key, "secret_key": keys.secret_key, "session_token": keys.token}
    return found
