"""Soft labels as Parquet, a row for every (image, view), with the view's geometry beside them.

Whoever has the synthetic images and this file can make every view again, in any order and batch size, and train on it.
Rows are in the order of (view, image), so that the first views of all images are the beginning of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from teddy_ray.store import _parquet

GROUP = 65536
"""Rows in a row group: some 130 MB of logits at 1000 classes."""


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """N rows: which view, its geometry in shares of the image's side, and the labellers' answer."""

    image: Tensor  # int64 (N,): which synthetic image
    view: Tensor  # int64 (N,): which of its views
    top: Tensor  # float32 (N,): the crop's box, in shares of the image's side
    left: Tensor  # float32 (N,)
    height: Tensor  # float32 (N,)
    width: Tensor  # float32 (N,)
    flip: Tensor  # bool (N,): mirrored after the crop
    partner: Tensor  # int64 (N,): the image of which CutMix pastes a part; the image itself where none
    mix_top: Tensor  # float32 (N,): the pasted box, in shares of the view's side; zero where none
    mix_left: Tensor  # float32 (N,)
    mix_height: Tensor  # float32 (N,)
    mix_width: Tensor  # float32 (N,)
    logits: Tensor  # float16 (N, K)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.image)


_INTEGERS = ("image", "view", "partner")
_COLUMNS = [field.name for field in fields(SoftLabels) if field.name != "logits"]
_TYPES = {
    name: pa.int64() if name in _INTEGERS else pa.bool_() if name == "flip" else pa.float32() for name in _COLUMNS
}
# Against plain: 8% smaller for logits of 1000 classes, and written in half the time.
_ENCODINGS = {
    **{name: "DELTA_BINARY_PACKED" for name, kind in _TYPES.items() if kind == pa.int64()},
    **{name: "BYTE_STREAM_SPLIT" for name, kind in _TYPES.items() if kind == pa.float32()},
    "logits.list.element": "BYTE_STREAM_SPLIT",
}


def to_parquet(labels: SoftLabels, *, metadata: Mapping[str, str]) -> bytes:
    """The rows in the order of (view, image), ``metadata`` in the schema: equal rows give equal bytes."""
    order = np.lexsort((labels.image.numpy(), labels.view.numpy()))
    schema = _schema(labels.logits.shape[1]).with_metadata({key: metadata[key] for key in sorted(metadata)})
    return _parquet.write(schema, _groups(labels, schema, order), encodings=_ENCODINGS)


def from_parquet(data: bytes, *, name: str = "a soft label file") -> SoftLabels:
    """What ``to_parquet`` wrote, bit for bit; WorldError naming it where it is damaged or something else."""
    table = _parquet.read(data, name=name)
    last = table.schema.field(table.num_columns - 1).type if table.num_columns else pa.null()
    num_classes = last.list_size if pa.types.is_fixed_size_list(last) else 0
    if not table.schema.equals(_schema(num_classes)):
        raise _parquet.damaged(name, "its columns are not those of soft labels")
    logits = table.column("logits").combine_chunks().flatten()
    if logits.null_count or any(column.null_count for column in table.columns):
        raise _parquet.damaged(name, "it has empty cells")
    columns = {column: _tensor(table.column(column)) for column in _COLUMNS}
    return SoftLabels(**columns, logits=_tensor(logits).reshape(len(table), num_classes))


def _schema(num_classes: int) -> pa.Schema:
    """The columns, without metadata."""
    return pa.schema({**_TYPES, "logits": pa.list_(pa.float16(), num_classes)})


def _groups(labels: SoftLabels, schema: pa.Schema, order: np.ndarray) -> Iterator[pa.Table]:
    """The sorted table, a row group at a time."""
    for start in range(0, len(order), GROUP):
        rows = torch.from_numpy(order[start : start + GROUP])
        columns = [pa.array(getattr(labels, name)[rows].numpy(), _TYPES[name]) for name in _COLUMNS]
        flat = pa.array(labels.logits[rows].flatten().numpy(), pa.float16())
        logits = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("logits").type)
        yield pa.Table.from_arrays([*columns, logits], schema=schema)


def _tensor(column: pa.Array | pa.ChunkedArray) -> Tensor:
    """A column's values, in memory of their own: Arrow's may not be written to."""
    options = {} if isinstance(column, pa.ChunkedArray) else {"zero_copy_only": False}
    return torch.from_numpy(np.array(column.to_numpy(**options)))
