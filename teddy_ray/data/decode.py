"""Bytes to pixels: every image that a dataset holds becomes uint8 RGB, height x width x 3.

What is not plain RGB is decoded on purpose, not by PIL's default:

- transparency (RGBA, LA, a palette's or a colour key) is laid on white: such pictures are drawn for a white page, and
  dropping alpha instead would show whatever colour hides below it;
- 16-bit gray is scaled by 1/257 (PIL's own conversion clips it at 255: a white image); 32-bit and floating-point gray
  are refused, as nothing says what their white is;
- palettes, 1-bit, gray, CMYK and YCbCr go through PIL's conversion, without colour profiles;
- EXIF orientation is applied; of an animation, the first frame is taken.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from teddy_ray.errors import WorldError

Raw = bytes | Path | np.ndarray | None
"""An image before decoding: a file's bytes, its path, pixels (H, W, 3), or None for a table's empty cell."""

# Formats whose decoders run no other program: PIL would hand an EPS to Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# Against decompression bombs. Below the bound at which PIL warns, as Python's warning filters cannot be changed safely
# beside threads.
MAX_PIXELS = 1 << 26
WINDOW = 512


class BrokenImageError(Exception):
    """An image that cannot be decoded; the message says why."""


def decode(raw: Raw, *, size: int | None = None) -> np.ndarray:
    """``raw`` as uint8 (H, W, 3).

    With ``size``, the centre square is cut out and resized to ``size`` x ``size`` (bicubic, antialiased).
    Raises BrokenImageError, and WorldError for a file that cannot be read at all.
    """
    data = _contents(raw) if isinstance(raw, Path) else raw
    if data is None:
        raise BrokenImageError("it holds no image bytes")
    try:
        image = _to_rgb(_open(data))
        return np.asarray(image if size is None else _resize(image, size))
    except (BrokenImageError, MemoryError):
        raise
    # PIL documents no set of exceptions for damaged bytes: SyntaxError, struct.error and others turn up.
    except Exception as error:
        raise BrokenImageError(str(error).strip(" .") or type(error).__name__) from error


def decode_all(raws: Iterable[Raw], *, size: int | None = None) -> Iterator[np.ndarray | BrokenImageError]:
    """All ``raws`` decoded, in their order, by threads (PIL releases the GIL); a broken one comes as its error."""
    Image.init()  # not safe when several threads' first Image.open does it
    stream = iter(raws)
    pool = ThreadPoolExecutor()
    try:
        # Executor.map drains its input at once, so it gets a window at a time.
        while window := list(islice(stream, WINDOW)):
            yield from pool.map(partial(_attempt, size=size), window)
    finally:
        # Nobody waits for the threads: a generator that is dropped half-way may be collected in one of them.
        pool.shutdown(wait=False, cancel_futures=True)


def _attempt(raw: Raw, *, size: int | None) -> np.ndarray | BrokenImageError:
    try:
        return decode(raw, size=size)
    except BrokenImageError as error:
        return error


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WorldError(f"cannot read {path}: {error.strerror}; make it readable, then run again") from error


def _open(data: bytes | np.ndarray) -> Image.Image:
    if isinstance(data, np.ndarray):
        return Image.fromarray(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise BrokenImageError(f"its {len(data)} bytes are no whole {', '.join(FORMATS)} file") from error
    if image.width * image.height > MAX_PIXELS:
        raise BrokenImageError(f"{image.height}x{image.width} are more than {MAX_PIXELS} pixels")
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _gray_16(image).convert("RGB")
    if image.mode == "F":
        raise BrokenImageError("floating-point gray has no agreed white")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _gray_16(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise BrokenImageError("32-bit gray has no agreed white")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def _resize(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BICUBIC)
