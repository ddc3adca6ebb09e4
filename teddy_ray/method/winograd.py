"""3x3 convolutions by Winograd's F(4x4, 3x3): a quarter of the multiplications (Lavin and Gray, arXiv 1509.09308).

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        4x4 pixels of the output, of 6x6 of the input, d, and a filter, g

Summed over the channels of the input, ⊙ is 36 matrix products. For CPUs without AMX: their direct convolutions already
run near the limit of their arithmetic, so that only less of it is faster. The gradient of the input is the same
convolution with the filters turned; that of a filter is Gᵀ [ (Bᵀ d B) ⊙ (A ∂Y Aᵀ) ] G, which again is 36 products.

    model = with_winograd(model)  # the same weights; convolutions that gain by it go this way from now on
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from teddy_ray.errors import WorldError
from teddy_ray.method.compiling import compiler

FILTER: Final = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""G, for the points 0, ±1, ±2 and infinity; winograd.cpp has A and B."""
CHANNELS: Final = 8
"""How many the transforms take at a time; convolutions whose channels are no multiples of it go the direct way."""
AT_ONCE: Final = 1 << 22
"""Floats of transformed images that filter_gradient holds: 16 MB. Four times more or less is no faster."""
APART: Final = 16
"""Floats between planes: one cache line, for planes that lie powers of two apart would share their lines' places."""

IMAGES: Final = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""What images may be of, and winograd.cpp's names for it."""
INSTRUCTIONS: Final = {"AVX2": ("-mavx2", "-mfma"), "AVX512": ("-mavx512f", "-mavx512vl", "-mfma")}
"""The compiler's flags for those that torch uses here, which the variable ATEN_CPU_CAPABILITY may limit."""

OPENMP: Final = () if sys.platform == "darwin" else ("-fopenmp",)
"""Where a compiler has none, as macOS's, a convolution takes one thread."""


class WinogradConv2d(nn.Conv2d):
    """A convolution that goes this way wherever it gains by it."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            x_BCHW = x_BCHW.to(torch.get_autocast_dtype("cpu"))
        if not self._gains(x_BCHW):
            return super().forward(x_BCHW)
        y_BOHW: Tensor = convolution(x_BCHW, self.weight)
        return y_BOHW if self.bias is None else y_BOHW + self.bias.to(y_BOHW.dtype)[:, None, None]

    def _gains(self, x_BCHW: Tensor) -> bool:
        """By at least half the multiplications; how many images there are does not matter, or an image's own answer
        would depend on those beside it."""
        high, wide = x_BCHW.shape[2:]
        return 4 * high * wide >= 36 * _tiles(high) * _tiles(wide) // 2 and x_BCHW.dtype in IMAGES


def with_winograd(model: nn.Module) -> nn.Module:
    """``model``, of whose convolutions those that can are WinogradConv2d from now on."""
    for layer in model.modules():
        if type(layer) is nn.Conv2d and _can(layer):
            layer.__class__ = WinogradConv2d
    return model


def _can(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == layer.padding == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and all(count % CHANNELS == 0 and count > CHANNELS for count in (layer.in_channels, layer.out_channels))
    )


# Operators of torch's, so that torch.compile takes them as they are.
@torch.library.custom_op("teddy::convolution", mutates_args=())
def convolution(x_BCHW: Tensor, weight_OC33: Tensor) -> Tensor:
    """``conv2d(x, weight, padding=1)``, (B, O, H, W) of x's type, channels last; in float32, off by some 1e-5 of y's
    deviation, and in bfloat16 by its rounding of x and y: weights and sums are float32 in both."""
    batch, channels, high, wide = x_BCHW.shape
    outputs = len(weight_OC33)
    x_BHWC, y_BHWO = _channels_last(x_BCHW), x_BCHW.new_empty(batch, high, wide, outputs)
    (filters, across), at_once = _filters(weight_OC33), _at_once(channels, outputs)
    threads, each = torch.get_num_threads(), 36 * (at_once * (channels + across) + 2 * APART)
    room = torch.empty(threads, each)
    where = (tensor.data_ptr() for tensor in (x_BHWC, filters, y_BHWO, room))
    _for_images("convolve", x_BHWC)(*where, each, at_once, batch, high, wide, channels, outputs, threads)
    return y_BHWO.permute(0, 3, 1, 2)


@torch.library.custom_op("teddy::filter_gradient", mutates_args=())
def filter_gradient(x_BCHW: Tensor, y_grad_BOHW: Tensor) -> Tensor:
    """The gradient (O, C, 3, 3) of ``convolution``'s weight."""
    channels, outputs = x_BCHW.shape[1], y_grad_BOHW.shape[1]
    sums_36CO = torch.zeros(36, channels, outputs)
    for x_BHWC, y_grad in zip(*_parts(_channels_last(x_BCHW), _channels_last(y_grad_BOHW)), strict=True):
        of_x, of_y = _to_planes("input_to_planes", x_BHWC), _to_planes("gradient_to_planes", y_grad)
        with _in_float32():
            sums_36CO.baddbmm_(of_x.transpose(1, 2), of_y)
    with _in_float32():
        sums_9CO = _both_filters().T @ sums_36CO.view(36, -1)
    return sums_9CO.view(3, 3, channels, outputs).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)


@convolution.register_fake
def _(x_BCHW: Tensor, weight_OC33: Tensor) -> Tensor:
    batch, _, high, wide = x_BCHW.shape
    return x_BCHW.new_empty(batch, high, wide, len(weight_OC33)).permute(0, 3, 1, 2)


@filter_gradient.register_fake
def _(x_BCHW: Tensor, y_grad_BOHW: Tensor) -> Tensor:
    return x_BCHW.new_empty(y_grad_BOHW.shape[1], 3, 3, x_BCHW.shape[1], dtype=torch.float32).permute(0, 3, 1, 2)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001 - torch's names
    x_BCHW, weight_OC33 = inputs
    ctx.save_for_backward(x_BCHW if weight_OC33.requires_grad else None, weight_OC33)


def _backward(ctx: Any, y_grad_BOHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x_BCHW, weight_OC33 = ctx.saved_tensors
    to_x, to_weight = ctx.needs_input_grad
    return (
        convolution(y_grad_BOHW, weight_OC33.flip(2, 3).transpose(0, 1)) if to_x else None,
        filter_gradient(x_BCHW, y_grad_BOHW) if to_weight else None,
    )


convolution.register_autograd(_backward, setup_context=_keep)


def _filters(weight_OC33: Tensor) -> tuple[Tensor, int]:
    """G g Gᵀ as winograd.cpp reads it (36, panels, C, columns), and what O is in whole panels."""
    outputs, channels = weight_OC33.shape[:2]
    columns = _library().columns()
    if rest := -outputs % columns:
        weight_OC33 = pad(weight_OC33, (0, 0, 0, 0, 0, 0, 0, rest))
    by_panel = weight_OC33.view(-1, columns, channels, 3, 3).permute(3, 4, 0, 2, 1).reshape(9, -1)
    with _in_float32():
        return _both_filters() @ by_panel, outputs + rest


def _at_once(channels: int, outputs: int) -> int:
    """Tiles that a thread transforms before it multiplies: of a plane, half as large as the filters they meet there."""
    rows: int = _library().rows()
    return -(-channels * outputs // (channels + outputs) // 2 // rows) * rows


def _in_float32() -> torch.autocast:
    """Products here are, whatever autocast is on around the convolution."""
    return torch.autocast("cpu", enabled=False)


def _both_filters() -> Tensor:
    """G ⊗ G (36, 9): G · Gᵀ as one matrix."""
    g = torch.tensor(FILTER)
    return torch.kron(g, g)


def _channels_last(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.permute(0, 2, 3, 1).contiguous()


def _parts(x_BHWC: Tensor, y_BHWO: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Both in parts of as many images as are transformed at once."""
    _, high, wide, _ = x_BHWC.shape
    image = 36 * _tiles(high) * _tiles(wide) * max(x_BHWC.shape[3], y_BHWO.shape[3])
    count = max(1, AT_ONCE // image)
    return x_BHWC.split(count), y_BHWO.split(count)


def _to_planes(transform: str, images_BHWC: Tensor) -> Tensor:
    """``images`` transformed (36, T, C), T = 4x4 tiles of all images."""
    batch, high, wide, channels = images_BHWC.shape
    tiles = batch * _tiles(high) * _tiles(wide)
    plane = tiles * channels + APART
    planes_36TC = torch.empty(36 * plane).as_strided((36, tiles, channels), (plane, channels, 1))
    where = images_BHWC.data_ptr(), planes_36TC.data_ptr()
    _for_images(transform, images_BHWC)(*where, plane, batch, high, wide, channels, torch.get_num_threads())
    return planes_36TC


def _for_images(function: str, images: Tensor) -> Callable[..., None]:
    """winograd.cpp's function for images of this type."""
    found: Callable[..., None] = getattr(_library(), f"{function}_{IMAGES[images.dtype]}")
    return found


def _tiles(side: int) -> int:
    return -(-side // 4)


@cache
def _library() -> ctypes.CDLL:
    """winograd.cpp, compiled in a second, by each process for itself: no other can have made it."""
    instructions = INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ())
    with tempfile.TemporaryDirectory(prefix="teddy-winograd-") as folder:
        library = Path(folder) / "winograd.so"
        source = Path(__file__).with_suffix(".cpp")
        command = [compiler(), "-O3", *instructions, *OPENMP, "-shared", "-fPIC", "-o", str(library), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WorldError(
                f"{command[0]} cannot compile {source.name}, so set compute.convolutions=direct: {done.stderr.strip()}"
            )
        found = ctypes.CDLL(str(library))
    for name, pointers, numbers in (("convolve", 4, 8), ("input_to_planes", 2, 6), ("gradient_to_planes", 2, 6)):
        for kind in IMAGES.values():
            function = getattr(found, f"{name}_{kind}")
            function.argtypes, function.restype = [ctypes.c_void_p] * pointers + [ctypes.c_long] * numbers, None
    return found
