"""A store in S3, or in whatever speaks its language: ``s3://bucket/prefix``.

The endpoint, where it is not Amazon's, is AWS_ENDPOINT_URL_S3. That bytes are what they were is for us to find out, by
the SHA-256 in records: what servers check, and what their ETags are, differs among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teddy_ray.errors import UserError
from teddy_ray.store.base import Entry, MissingKeyError, check_key, is_key
from teddy_ray.store.bucket import Bucket, Object, split_address


@dataclass(frozen=True)
class S3Store:
    """The store under ``prefix`` (no slash at either end; may be empty) of a bucket, which must be there."""

    bucket: Bucket
    prefix: str = ""

    @classmethod
    def at(cls, uri: str) -> S3Store:
        """The store at ``s3://bucket/prefix``; asks nothing of the server yet. Raises UserError."""
        bucket, prefix = split_address(uri)
        if prefix and not is_key(prefix):
            raise UserError(
                f"the store {uri} cannot be used: its prefix must be plain names of A-Z a-z 0-9 . _ = - with / between"
            )
        return cls(Bucket(bucket), prefix)

    @property
    def uri(self) -> str:
        """Its address; the endpoint is the environment's."""
        return f"s3://{self.bucket.name}/{self.prefix}".rstrip("/")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write ``data`` unless ``key`` is there; of many who try at once exactly one gets True."""
        return self.bucket.put_new(self._full(key), data)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write ``data``, in place of what is there."""
        self.bucket.put(self._full(key), data)

    def put_file(self, key: str, path: Path) -> None:
        """Write the content of the file at ``path``, in place of what is there."""
        self.bucket.put(self._full(key), path)

    def get(self, key: str) -> bytes:
        """The content; raises MissingKeyError."""
        return self.bucket.get(self._full(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """At most ``length`` bytes from ``start``, fewer where the content ends before; raises MissingKeyError."""
        if length == 0:  # S3 has no word for a range of nothing
            if self.head(key) is None:
                raise MissingKeyError(f"there is no file {self.uri}/{key}")
            return b""
        return self.bucket.get(self._full(key), start=start, length=length)

    def list(self, prefix: str) -> Iterator[Entry]:
        """All keys that begin with ``prefix``, in the order of their names."""
        if prefix:
            check_key(prefix.removesuffix("/"))
        within = f"{self.prefix}/" if self.prefix else ""
        found = (self._entry(item, within) for item in self.bucket.list(within + prefix))
        return (entry for entry in found if is_key(entry.key))

    def head(self, key: str) -> Entry | None:
        """What is known of ``key``, or None where it is not."""
        found = self.bucket.head(self._full(key))
        return Entry(key, found.size, found.modified) if found else None

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not."""
        self.bucket.delete(self._full(key))

    def copy(self, source_key: str, key: str) -> None:
        """Make ``key`` what ``source_key`` is, inside the server."""
        self.bucket.copy(self._full(source_key), self._full(key))

    def local_path(self, key: str) -> None:
        """Nothing here is on this machine's disk."""
        check_key(key)

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)

    @staticmethod
    def _entry(item: Object, within: str) -> Entry:
        return Entry(item.key.removeprefix(within), item.size, item.modified)
