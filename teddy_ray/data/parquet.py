"""A Parquet file, or a folder of them, in the Hugging Face layout (``parquet:PATH``, or the PATH alone).

Columns: ``image``, a struct with ``bytes`` or plain binary, holding image files; ``label``, integers 0..K-1. Class
names come from the schema's ``huggingface`` metadata. In a folder, a split is the files whose name, or whose folder's
name, begins with train, val (or validation), or test: ``data/train-00000-of-00004.parquet``, ``train/0000.parquet``.
``val`` is taken where there is a ``test`` too, as published test sets often have no labels; other splits are not looked
at. A file alone, or a folder without a test split, has a fifth of every class held out for testing.

Labels are read first; then only the chosen rows' images, row group by row group.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from teddy_ray.data.dataset import Listing
from teddy_ray.data.decode import Raw
from teddy_ray.errors import UserError

BATCH = 256
_SPLIT = re.compile(r"(train|validation|val|test)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """The rows of some Parquet files, one after the other."""

    files: Sequence[Path]
    starts: np.ndarray
    """The first row of each file, and at the end the number of rows: (F + 1,)."""
    labels: np.ndarray
    class_names: tuple[str, ...] | None

    def where(self, row: int) -> str:
        file = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.files[file]} row {row - self.starts[file]}"

    def read(self, rows: np.ndarray) -> Iterator[Raw]:
        bounds = np.searchsorted(rows, self.starts)
        for file, start, first, last in zip(self.files, self.starts, bounds, bounds[1:], strict=False):
            if last > first:
                yield from _read_images(file, rows[first:last] - start)


def listing(path: Path) -> Listing:
    """The tables at ``path``. Raises UserError for what is not Parquet in the layout above."""
    splits = _splits(path)
    train = _table(splits["train"])
    test = _table(splits["test"]) if splits["test"] else None
    if test and test.class_names != train.class_names:
        raise UserError(f"{test.files[0]} has other class names than {train.files[0]}; both splits must name the same")
    return Listing(train, test, class_names=train.class_names)


def files(path: Path) -> list[Path]:
    """Every Parquet file that ``listing`` would take."""
    splits = _splits(path)
    return splits["train"] + splits["test"]


def _splits(path: Path) -> dict[str, list[Path]]:
    """The files for training and for testing (none: hold some out)."""
    if path.is_file():
        return {"train": [path], "test": []}
    found: dict[str, list[Path]] = {}
    for file in _parquet_files(path):
        found.setdefault(_split_of(file.relative_to(path)), []).append(file)
    if not found:
        raise UserError(f"{path} has no Parquet files; for a folder of image files, write folder:{path}")
    if set(found) == {""}:
        return {"train": found[""], "test": []}
    if "train" not in found:
        others = ", ".join(sorted(name for name in found if name))
        raise UserError(f"{path} has Parquet files for {others} but none for training, whose names begin with train")
    return {"train": found["train"], "test": found.get("val") or found.get("test") or []}


def _parquet_files(folder: Path) -> list[Path]:
    every = folder.rglob("*.parquet")
    # Hidden folders hold a downloader's leavings, such as .cache.
    return sorted(file for file in every if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def _split_of(file: Path) -> str:
    """train, val, test, or nothing; the file's own name goes before its folders'."""
    for part in reversed(file.parts):
        if match := _SPLIT.match(part):
            return match[1].lower().replace("validation", "val")
    return ""


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    # pyarrow says OSError for damaged pages too.
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({_first_line(error)}); fetch or write it anew") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _table(paths: Sequence[Path]) -> Table:
    """The labels of ``paths``, checked to be of one layout."""
    labels, names = [], []
    for path in paths:
        with _opened(path) as file:
            _image_column(path, file.schema_arrow)
            labels.append(_labels(path, file))
            names.append(_class_names(file.schema_arrow))
    for path, own in zip(paths, names, strict=True):
        if own != names[0]:
            raise UserError(f"{path} has other class names than {paths[0]}; all files must name the same")
    starts = np.cumsum([0, *map(len, labels)])
    if starts[-1] == 0:
        raise UserError(f"{paths[0]} has no rows")
    return Table(paths, starts, np.concatenate(labels), names[0])


def _labels(path: Path, file: pq.ParquetFile) -> np.ndarray:
    _check_column(path, file.schema_arrow, "label")
    kind = file.schema_arrow.field("label").type
    if not pa.types.is_integer(kind):
        raise UserError(f"{path}: the column label is {kind}; it must hold integers 0..K-1")
    column = file.read(columns=["label"])["label"].combine_chunks()
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise UserError(f"{path} row {row} has no label; every row needs one")
    return np.asarray(column, dtype=np.int64)


def _check_column(path: Path, schema: pa.Schema, name: str) -> None:
    if name not in schema.names:
        raise UserError(
            f"{path} has no column {name}, only {', '.join(schema.names) or 'none at all'}; it needs the columns image"
            " (struct with bytes, or binary) and label (integers)"
        )


def _image_column(path: Path, schema: pa.Schema) -> str:
    """The Parquet column that holds image bytes."""
    _check_column(path, schema, "image")
    kind = schema.field("image").type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, column = kind.field("bytes").type, "image.bytes"
    else:
        column = "image"
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(f"{path}: the column image is {kind}; it must be binary, or a struct with binary bytes")
    return column


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get("label", {})
    return tuple(feature["names"]) if feature.get("names") else None


def _read_images(path: Path, rows: np.ndarray) -> Iterator[Raw]:
    """The image bytes of a file's ``rows`` (ascending), from the row groups that hold them."""
    with _opened(path) as file:
        column = _image_column(path, file.schema_arrow)
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            wanted = rows[(rows >= start) & (rows < stop)] - start
            if wanted.size:
                yield from _read_group(file, group, column, wanted)
            start = stop


def _read_group(file: pq.ParquetFile, group: int, column: str, rows: np.ndarray) -> Iterator[Raw]:
    start = 0
    for batch in file.iter_batches(BATCH, row_groups=[group], columns=[column]):
        wanted = rows[(rows >= start) & (rows < start + len(batch))] - start
        start += len(batch)
        # struct_field, unlike StructArray.field, keeps the nulls of the struct itself.
        cells = pc.struct_field(batch.column(0), [0]) if column == "image.bytes" else batch.column(0)
        yield from cells.take(pa.array(wanted)).to_pylist()
