"""One S3 bucket, with the few verbs that we need.

    Bucket("my-bucket").put("runs/a/spec.json", b"{}")

Keys are whatever S3 takes; ``S3Store`` narrows them to ours. Missing keys are MissingKeyErrors, what the user can mend
UserErrors, what the world has broken WorldErrors.
"""

from __future__ import annotations

import builtins
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from teddy_ray.errors import UserError, WorldError
from teddy_ray.store import traffic
from teddy_ray.store.base import MissingKeyError
from teddy_ray.store.s3_client import TAKEN, code_of, patiently

T = TypeVar("T")

MULTIPART_BYTES = 64 << 20
"""From here on content goes in parts: S3 takes at most 5 GB at once, and a lost part costs less than a lost whole."""
PART_BYTES = 16 << 20
MOST_PARTS = 10_000
PARTS_AT_ONCE = 4

_WRITER = "teddy-writer"
"""Metadata that says whose work an object is, for the writer whose answer got lost."""
_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/.*)?", re.DOTALL)


@dataclass(frozen=True)
class Object:
    """What a bucket knows of a key. ``etag`` changes when the content does, and is no more than that."""

    key: str
    size: int
    modified: float
    etag: str
    writer: str | None = None


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was begun, and neither ended nor taken back: its parts take space, under no key."""

    key: str
    id: str
    size: int
    began: float


def split_address(uri: str) -> tuple[str, str]:
    """The bucket and the rest of ``s3://bucket/rest``, without slashes at the rest's ends; raises UserError."""
    match = _ADDRESS.fullmatch(uri)
    if match is None:
        raise UserError(
            f"{uri} is no address in S3: write s3://bucket/prefix, the bucket as 3 to 63 lower-case letters, digits,"
            " dots and hyphens"
        )
    return match[1], (match[2] or "").strip("/")


@dataclass(frozen=True)
class Bucket:
    """The bucket ``name``, which must be there; nothing is asked of it yet."""

    name: str

    def put(self, key: str, content: bytes | Path) -> None:
        """Write bytes or a file's content; in parts where it is large, which are taken back if not all arrive."""
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if size >= MULTIPART_BYTES:
            self._put_parts(key, content, size)
            return
        data = _part(content, 0, size)
        self._patiently(key, lambda client: client.put_object(Bucket=self.name, Key=key, Body=data))
        traffic.count(written=size)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write ``data`` unless ``key`` is there; whether it is this call's work that is there now."""
        writer = uuid.uuid4().hex

        def attempt(client: Any) -> bool:
            from botocore.exceptions import ClientError

            try:
                client.put_object(Bucket=self.name, Key=key, Body=data, IfNoneMatch="*", Metadata={_WRITER: writer})
            except ClientError as error:
                if code_of(error) not in TAKEN:
                    raise
                return False
            return True

        # On its way a request may have been repeated, and the second one have found the first one's work.
        done = self._patiently(key, attempt) or self._is_by(key, writer)
        traffic.count(written=len(data) if done else 0)
        return done

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str | None = None) -> bytes:
        """The content, or what there is of ``length`` bytes from ``start``; of that ``etag`` alone, if one is given."""
        wanted: dict[str, str] = {} if etag is None else {"IfMatch": etag}
        if length is not None:
            wanted["Range"] = f"bytes={start}-{start + length - 1}"

        def attempt(client: Any) -> bytes:
            from botocore.exceptions import ClientError

            try:
                answer = client.get_object(Bucket=self.name, Key=key, **wanted)
            except ClientError as error:
                if code_of(error) in {"InvalidRange", "416"}:  # the content ends before
                    return b""
                raise
            with closing(answer["Body"]) as body:  # as its own context it gives a stream that counts nothing
                return bytes(body.read())

        content = self._patiently(key, attempt)
        traffic.count(read=len(content))
        return content

    def list(self, prefix: str) -> Iterator[Object]:
        """All keys that begin with ``prefix``, in the order of their names; a request a thousand."""
        page = {"Bucket": self.name, "Prefix": prefix}
        while True:
            answer = self._patiently(prefix, lambda client: client.list_objects_v2(**page))
            for item in answer.get("Contents", []):
                yield Object(item["Key"], item["Size"], item["LastModified"].timestamp(), item["ETag"])
            if not answer["IsTruncated"]:
                return
            page["ContinuationToken"] = answer["NextContinuationToken"]

    def head(self, key: str) -> Object | None:
        """What is known of ``key``, or None where it is not."""

        def attempt(client: Any) -> Any:
            from botocore.exceptions import ClientError

            try:
                return client.head_object(Bucket=self.name, Key=key)
            except ClientError as error:
                if code_of(error) not in {"400", "403"}:
                    raise
            # The answer to a HEAD has no body that says what is wrong; the answer to a GET has.
            client.get_object(Bucket=self.name, Key=key, Range="bytes=0-0")["Body"].close()
            return client.head_object(Bucket=self.name, Key=key)

        try:
            found = self._patiently(key, attempt)
        except MissingKeyError:
            return None
        writer = found["Metadata"].get(_WRITER)
        return Object(key, found["ContentLength"], found["LastModified"].timestamp(), found["ETag"], writer)

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens where it is not."""
        self._patiently(key, lambda client: client.delete_object(Bucket=self.name, Key=key))

    def copy(self, source_key: str, key: str) -> None:
        """Make ``key`` what ``source_key`` is; the bytes stay with the server, which takes 5 GB at once, and parts."""
        source = {"Bucket": self.name, "Key": source_key}

        def attempt(client: Any) -> None:
            from botocore.exceptions import ClientError

            try:
                client.copy_object(Bucket=self.name, Key=key, CopySource=source)
            except ClientError as error:
                if code_of(error) not in {"EntityTooLarge", "InvalidRequest"}:
                    raise
                client.copy(source, self.name, key)

        self._patiently(source_key, attempt)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """What is unfinished under ``prefix``: under way just now, or left by a writer that was killed."""
        page = {"Bucket": self.name, "Prefix": prefix}
        while True:
            answer = self._patiently(prefix, lambda client: client.list_multipart_uploads(**page))
            for item in answer.get("Uploads", []):
                where = {"Bucket": self.name, "Key": item["Key"], "UploadId": item["UploadId"]}
                parts = self._patiently(item["Key"], partial(_parts, where))
                yield Upload(item["Key"], item["UploadId"], parts, item["Initiated"].timestamp())
            if not answer.get("IsTruncated"):
                return
            page["KeyMarker"], page["UploadIdMarker"] = answer["NextKeyMarker"], answer["NextUploadIdMarker"]

    def take_back(self, key: str, upload: str) -> None:
        """Remove an unfinished upload's parts; nothing happens where it is over."""
        where = {"Bucket": self.name, "Key": key, "UploadId": upload}
        with suppress(MissingKeyError):
            self._patiently(key, lambda client: client.abort_multipart_upload(**where))

    def _patiently(self, key: str, attempt: Callable[[Any], T]) -> T:
        return patiently(attempt, bucket=self.name, key=key)

    def _is_by(self, key: str, writer: str) -> bool:
        found = self.head(key)
        return found is not None and found.writer == writer

    def _put_parts(self, key: str, content: bytes | Path, size: int) -> None:
        """Each part has the whole patience; whatever else happens, an interrupt too, takes the upload back."""
        writer, where = uuid.uuid4().hex, {"Bucket": self.name, "Key": key}
        length = max(PART_BYTES, -(-size // MOST_PARTS))
        begun = self._patiently(key, lambda client: client.create_multipart_upload(**where, Metadata={_WRITER: writer}))
        upload = {**where, "UploadId": begun["UploadId"]}

        def put(number: int) -> dict[str, Any]:
            data = _part(content, (number - 1) * length, length)
            part = self._patiently(key, lambda client: client.upload_part(**upload, PartNumber=number, Body=data))
            traffic.count(written=len(data))
            return {"PartNumber": number, "ETag": part["ETag"]}

        try:
            with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
                parts = list(pool.map(put, range(1, -(-size // length) + 1)))
            self._complete(key, upload, parts, writer)
        except BaseException:
            with suppress(UserError, WorldError):  # then the bucket's own rule for such leavings has to
                self._patiently(key, lambda client: client.abort_multipart_upload(**upload))
            raise

    def _complete(self, key: str, upload: dict[str, str], parts: builtins.list[dict[str, Any]], writer: str) -> None:
        def attempt(client: Any) -> bool:
            from botocore.exceptions import ClientError

            try:
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            except ClientError as error:
                # Repeated, because the first answer got lost: then the upload is over, and its object there.
                if code_of(error) != "NoSuchUpload" or not self._is_by(key, writer):
                    raise
            return True

        self._patiently(key, attempt)


def _parts(upload: dict[str, str], client: Any) -> int:
    """The bytes that have come of an unfinished upload, as far as the server tells at once."""
    return sum(part["Size"] for part in client.list_parts(**upload).get("Parts", []))


def _part(content: bytes | Path, start: int, length: int) -> bytes:
    """``length`` bytes from ``start``, or what there is of them."""
    if isinstance(content, bytes):
        return content if len(content) <= length else content[start : start + length]
    with content.open("rb") as stream:
        stream.seek(start)
        return stream.read(length)
