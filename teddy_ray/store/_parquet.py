"""How we write and read Parquet: zstd, a checksum on every page, the same bytes for the same table."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from teddy_ray.errors import WorldError


def write(
    schema: pa.Schema,
    groups: Iterable[pa.Table],
    *,
    encodings: Mapping[str, str],
    metadata: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """A Parquet file with a row group for each of ``groups``; columns not in ``encodings`` are plain.

    With ``metadata``, Arrow's own description of the schema, 500 bytes, is left out: Parquet's types must say all.
    """
    stream = io.BytesIO()
    options: dict[str, Any] = {"use_dictionary": False, "column_encoding": dict(encodings), "write_page_checksum": True}
    options["store_schema"] = metadata is None
    with pq.ParquetWriter(stream, schema, compression="zstd", **options) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, len(group)))
        if metadata is not None:
            writer.add_key_value_metadata(dict(metadata))
    return stream.getvalue()


def read(data: bytes, *, name: str) -> pa.Table:
    """All of a Parquet file, checksums checked; WorldError naming it where it is damaged or something else."""
    try:
        return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: names of columns
        raise damaged(name, error) from error


def damaged(name: str, reason: object) -> WorldError:
    """The sentence for a file that cannot be what we wrote."""
    return WorldError(f"{name} is damaged or not ours ({reason}): make it again")
