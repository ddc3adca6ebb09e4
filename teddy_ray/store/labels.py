"""Soft labels as Parquet: a row for every (image, view) with the labellers' answer, packed as the spec says.

    data = to_parquet(image, view, logits, views=Views(...), bits=8, top_k=5)
    labels = from_parquet(data)
    labels.answers.logits(rows)

A view's geometry is a function of what ``Views`` holds and of the numbers of the image and the view: it is not stored,
but made again (``teddy_ray.published`` does, for those who have a run's folder). Rows are in the order of (view,
image), so that the first views of all images are the beginning of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from teddy_ray.store import _parquet
from teddy_ray.store.packed import Packed, concatenated, id_bytes, pack

GROUP = 65536
"""Rows in a row group: some 130 MB of logits at 1000 classes in 16 bits."""
KEY = b"soft_labels"
Bits = Literal[4, 8, 16]
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Views:
    """What a view's geometry is a function of, beside the numbers of the image and the view."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    seed: Annotated[int, Field(ge=0)]
    crop_scale: Annotated[float, Field(gt=0, le=1)]
    flip: bool
    mix: Literal["none", "cutmix"]
    images: Annotated[int, Field(ge=1)]
    """In the set: a partner is any of them."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """The file's metadata: the views, and how the logits are packed."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    views: Views
    classes: Annotated[int, Field(ge=1, le=2**16)]
    bits: Bits
    top_k: Annotated[int, Field(ge=1)] | None
    step: Annotated[float, Field(gt=0)] | None

    def __post_init__(self) -> None:
        """What cannot go together."""
        if self.top_k is not None and self.top_k >= self.classes:
            raise ValueError(f"it keeps the {self.top_k} largest of {self.classes} logits")
        if (self.step is None) != (self.bits == 16):
            raise ValueError(f"its step is {self.step}, and it keeps {self.bits} bits")


_KEPT = TypeAdapter(_Kept)


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """N rows: of which image and view, and the labellers' answer for it."""

    image: Tensor  # int64 (N,)
    view: Tensor  # int64 (N,)
    answers: Packed
    views: Views

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.image)


def to_parquet(
    image: Tensor, view: Tensor, logits_NK: Tensor, *, views: Views, bits: Bits = 16, top_k: int | None = None
) -> bytes:
    """The rows in the order of (view, image): equal rows give equal bytes. WorldError where they cannot be packed."""
    order = torch.from_numpy(np.lexsort((image.numpy(), view.numpy())))
    packed = pack(logits_NK[order], bits=bits, top_k=top_k)
    step = None if packed.step is None else float(packed.step[0]) if len(packed) else 1.0
    k = None if packed.top is None else packed.top.shape[1]
    kept = _Kept(views=views, classes=packed.classes, bits=bits, top_k=k, step=step)
    schema, encodings = _schema(kept), _encodings(kept)
    said = {KEY: json.dumps(asdict(kept), sort_keys=True, separators=(",", ":")).encode()}
    if bits == 16:  # a list's length is in Arrow's description alone
        schema = schema.with_metadata(said)
        return _parquet.write(schema, _groups(image[order], view[order], packed, schema), encodings=encodings)
    groups = _groups(image[order], view[order], packed, schema)
    return _parquet.write(schema, groups, encodings=encodings, metadata=said)


def from_parquet(data: bytes, *, name: str = "a soft label file") -> SoftLabels:
    """What ``to_parquet`` wrote, bit for bit; WorldError naming it where it is damaged or something else."""
    table = _parquet.read(data, name=name)
    kept = _kept(table, name)
    if not table.schema.remove_metadata().equals(_schema(kept)):
        raise _parquet.damaged(name, "its columns are not those of soft labels")
    columns = {column: table.column(column).combine_chunks() for column in table.column_names}
    if any(column.null_count for column in columns.values()):
        raise _parquet.damaged(name, "it has empty cells")
    top = None if kept.top_k is None else _bytes(columns["top"])
    if top is not None and id_bytes(kept.classes) == 2:
        top = top.view(torch.int16)
    values = _halves(columns["logits"], kept, name) if kept.bits == 16 else _bytes(columns["codes"])
    step = None if kept.step is None else torch.full((len(table),), kept.step)
    image, view = (torch.from_numpy(np.array(columns[column])) for column in ("image", "view"))
    if len(table) and (image.min() < 0 or image.max() >= kept.views.images or view.min() < 0):
        raise _parquet.damaged(name, "it is about images that are not in its set")
    if top is not None and len(top) and int((top.long() & 0xFFFF).max()) >= kept.classes:
        raise _parquet.damaged(name, "it is about classes that it has not")
    return SoftLabels(image, view, Packed(kept.bits, kept.classes, values, top, step), kept.views)


def joined(parts: Sequence[SoftLabels], *, first_view: int = 0, name: str = "the soft label files") -> SoftLabels:
    """Every view of every image once, from ``first_view`` on, from files that have a part of them each: row
    (view − first_view) · N + image. WorldError where there are others, or not all."""
    views, forms = parts[0].views, {_form(part) for part in parts}
    image, view = torch.cat([part.image for part in parts]), torch.cat([part.view for part in parts])
    key = (view - first_view) * views.images + image
    order = key.argsort()
    if any(part.views != views for part in parts) or len(forms) > 1:
        raise _parquet.damaged(name, "they are not of one set")
    if len(key) % views.images or not torch.equal(key[order], torch.arange(len(key))):
        raise _parquet.damaged(name, "they have not every view of every image once")
    return SoftLabels(image[order], view[order], concatenated([part.answers for part in parts])[order], views)


def _form(labels: SoftLabels) -> tuple[object, ...]:
    """What of a row is kept."""
    answers = labels.answers
    top = None if answers.top is None else answers.top.shape[1]
    return answers.bits, answers.classes, answers.values.shape[1], top


def _schema(kept: _Kept) -> pa.Schema:
    """The columns, without metadata."""
    columns = {"image": pa.int64(), "view": pa.int64()}
    if kept.top_k is not None:
        columns["top"] = pa.binary(kept.top_k * id_bytes(kept.classes))
    if kept.bits == 16:
        columns["logits"] = pa.list_(pa.float16(), kept.classes if kept.top_k is None else kept.top_k + 1)
    else:
        columns["codes"] = pa.binary(math.ceil((kept.top_k or kept.classes) * kept.bits / 8))
    return pa.schema(columns)


def _encodings(kept: _Kept) -> dict[str, str]:
    """Against plain: logits of 1000 classes are 8% smaller, and written in half the time; codes are as large."""
    numbers = dict.fromkeys(("image", "view"), "DELTA_BINARY_PACKED")
    return numbers | ({"logits.list.element": "BYTE_STREAM_SPLIT"} if kept.bits == 16 else {})


def _groups(image: Tensor, view: Tensor, packed: Packed, schema: pa.Schema) -> Iterator[pa.Table]:
    """The sorted table, a row group at a time."""
    for start in range(0, len(image), GROUP):
        rows = slice(start, start + GROUP)
        columns = [pa.array(image[rows].numpy()), pa.array(view[rows].numpy())]
        if packed.top is not None:
            columns.append(_binary(packed.top[rows]))
        if packed.bits == 16:
            flat = pa.array(packed.values[rows].flatten().numpy(), pa.float16())
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field("logits").type))
        else:
            columns.append(_binary(packed.values[rows]))
        yield pa.Table.from_arrays(columns, schema=schema)


def _kept(table: pa.Table, name: str) -> _Kept:
    try:
        return _KEPT.validate_json((table.schema.metadata or {})[KEY])
    except KeyError as error:
        raise _parquet.damaged(name, "its columns are not those of soft labels") from error
    except ValidationError as error:
        raise _parquet.damaged(name, error.errors()[0]["msg"]) from error


def _binary(values: Tensor) -> pa.Array:
    """Rows of bytes, little end first."""
    raw = np.ascontiguousarray(values.numpy()).astype(values.numpy().dtype.newbyteorder("<"), copy=False)
    width = raw.shape[1] * raw.dtype.itemsize
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(raw), [None, pa.py_buffer(raw.tobytes())])


def _bytes(column: pa.Array) -> Tensor:
    """A column of bytes as uint8 (N, width), in memory of its own: Arrow's may not be written to."""
    width = column.type.byte_width
    raw = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * width :][: len(column) * width]
    return torch.from_numpy(raw.copy().reshape(len(column), width))


def _halves(column: pa.Array, kept: _Kept, name: str) -> Tensor:
    flat = column.flatten()
    if flat.null_count:
        raise _parquet.damaged(name, "it has empty cells")
    values = np.array(flat.to_numpy(zero_copy_only=False))
    return torch.from_numpy(values).reshape(len(column), kept.classes if kept.top_k is None else kept.top_k + 1)
