"""Synthetic images as they are published: Parquet in the Hugging Face layout, where others see pictures and names.

    data = to_parquet(images, labels, ["cat", "dog"])    # datasets.load_dataset("parquet", data_files="images.parquet")
    images, labels, class_names = from_parquet(data)

Columns: ``image``, a struct of ``bytes`` (PNG, lossless) and ``path`` (a file name), and ``label``, an int64. The names
of the classes are in the schema's metadata, where ``datasets`` looks for them.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from teddy_ray.store import _parquet

GROUP = 256
"""Images in a row group: small enough for the Hugging Face viewer, and far below Arrow's 2 GiB a column at any size."""
_COLUMNS = {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()}


def to_parquet(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> bytes:
    """Images uint8 (N, 3, H, W) and labels int64 (N,), in their order."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(class_names)}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(_COLUMNS, metadata=metadata)
    with ThreadPoolExecutor() as threads:  # PNG is most of the work, and lets the other threads go
        groups = _groups(threads, schema, images, labels, class_names)
        return _parquet.write(schema, groups, encodings={"label": "DELTA_BINARY_PACKED"})


def from_parquet(data: bytes, *, name: str = "an image file") -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The images, labels and class names, bit for bit; WorldError naming it where it is damaged or something else."""
    table = _parquet.read(data, name=name)
    if not table.schema.equals(pa.schema(_COLUMNS)):
        raise _parquet.damaged(name, "its columns are not an image and a label")
    try:
        class_names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        encoded = table.column("image").combine_chunks().field("bytes").to_pylist()
        labels = table.column("label").to_numpy()
        with ThreadPoolExecutor() as threads:
            pixels = np.stack(list(threads.map(_decode, encoded)))
    except (KeyError, TypeError, ValueError, OSError, SyntaxError) as error:  # Pillow calls a bad PNG a SyntaxError
        raise _parquet.damaged(name, error) from error
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(labels, dtype=torch.int64), tuple(class_names)


def _groups(
    threads: ThreadPoolExecutor, schema: pa.Schema, images: Tensor, labels: Tensor, class_names: Sequence[str]
) -> Iterator[pa.Table]:
    """The table, a row group at a time."""
    for start in range(0, len(images), GROUP):
        pixels = images[start : start + GROUP].permute(0, 2, 3, 1).contiguous().numpy()  # (GROUP, H, W, 3)
        of_group = labels[start : start + GROUP].tolist()
        paths = [f"{_slug(class_names[label])}-{start + i:05d}.png" for i, label in enumerate(of_group)]
        cells = [{"bytes": png, "path": path} for png, path in zip(threads.map(_encode, pixels), paths, strict=True)]
        yield pa.table({"image": cells, "label": of_group}, schema=schema)


def _encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    """(H, W, 3) as PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def _decode(data: bytes) -> npt.NDArray[np.uint8]:
    """PNG as (H, W, 3)."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.mode != "RGB":
            raise ValueError(f"a picture is {image.mode}, not RGB")
        return np.asarray(image)


def _slug(class_name: str) -> str:
    """A class's name for a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", class_name.lower()).strip("-")[:40] or "class"
