"""3x3 convolutions by Winograd's F(4x4, 3x3): a quarter of the multiplications (Lavin and Gray, arXiv 1509.09308).

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        4x4 pixels of the output, of 6x6 of the input, d, and a filter, g

Summed over the channels of the input, ⊙ is 36 matrix products. For CPUs without AMX: their direct convolutions already
run near the limit of their arithmetic, so that only less of it is faster. The gradient of the input is the same
convolution with the filters turned; that of a filter is Gᵀ [ (Bᵀ d B) ⊙ (A ∂Y Aᵀ) ] G, which again is 36 products.

The matrices are those of the points 0, ±5/8, ±3/2 and infinity: with factors of bfloat16, Y is off by 1 % of its
deviation, half as much as with the usual 0, ±1, ±2; direct convolutions' is by 0.2 %.

    model = with_winograd(model)  # the same weights; convolutions that gain by it go this way from now on
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from teddy_ray.errors import WorldError
from teddy_ray.method.compiling import compiler

LANES: Final = 8
"""Channels that a transform takes at a time; convolutions whose channels are no multiples of it go the direct way."""
AT_ONCE: Final = 1 << 16
"""Channels x tiles that filter_gradient transforms before it multiplies."""

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
        and all(count % LANES == 0 and count > LANES for count in (layer.in_channels, layer.out_channels))
    )


# Operators of torch's, so that torch.compile takes them as they are.
@torch.library.custom_op("teddy::convolution", mutates_args=())
def convolution(x_BCHW: Tensor, weight_OC33: Tensor) -> Tensor:
    """``conv2d(x, weight, padding=1)``, (B, O, H, W) of x's type, channels last. Sums are float32, and so are factors,
    but for those of bfloat16 images on a CPU that multiplies bfloat16."""
    outputs = len(weight_OC33)
    x_BHWC, weight_33CO = _channels_last(x_BCHW), weight_OC33.permute(2, 3, 1, 0).contiguous()
    y_BHWO = x_BHWC.new_empty(*x_BHWC.shape[:3], outputs)
    _run("convolve", x_BHWC, weight_33CO, y_BHWO, *x_BHWC.shape, outputs)
    return y_BHWO.permute(0, 3, 1, 2)


@torch.library.custom_op("teddy::filter_gradient", mutates_args=())
def filter_gradient(x_BCHW: Tensor, y_grad_BOHW: Tensor) -> Tensor:
    """The gradient (O, C, 3, 3) of ``convolution``'s weight, float32; the same for any number of threads."""
    x_BHWC, y_grad_BHWO = _channels_last(x_BCHW), _channels_last(y_grad_BOHW)
    channels, outputs = x_BHWC.shape[3], y_grad_BHWO.shape[3]
    sums_33CO = torch.zeros(3, 3, channels, outputs)
    at_once = max(1, AT_ONCE // (channels + outputs))
    _run("filter_gradients", x_BHWC, y_grad_BHWO, sums_33CO, at_once, *x_BHWC.shape, outputs)
    return sums_33CO.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)


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


def _channels_last(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.permute(0, 2, 3, 1).contiguous()


def _run(function: str, images: Tensor, *arguments: Tensor | int) -> None:
    """winograd.cpp's function for images of this type."""
    values = [value.data_ptr() if isinstance(value, Tensor) else value for value in (images, *arguments)]
    getattr(_library(), f"{function}_{IMAGES[images.dtype]}")(*values, torch.get_num_threads())


def _tiles(side: int) -> int:
    return -(-side // 4)


@cache
def _library() -> ctypes.CDLL:
    """winograd.cpp, compiled in two seconds, by each process for itself: no other can have made it."""
    capability = torch.backends.cpu.get_cpu_capability()
    instructions = INSTRUCTIONS.get(capability, ())
    if capability == "AVX512" and torch.cpu._is_avx512_bf16_supported():
        instructions += ("-mavx512bf16",)
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
    for name, numbers in (("convolve", 5), ("filter_gradients", 6)):
        for kind in IMAGES.values():
            function = getattr(found, f"{name}_{kind}")
            function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long] * numbers + [ctypes.c_int]
            function.restype = None
    return found
