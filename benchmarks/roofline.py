"""What this machine could do at best, and what a step asks of it: so that a share of the roofline is a number.

    peaks = measured(device, torch.bfloat16)             # in this very run, at torch's present number of threads
    work = asks("match", model, (100, 3, 64, 64), element=2)
    peaks.share(work, seconds, dtype=torch.bfloat16)     # 1.0: nothing on this machine is faster

A step takes at least its arithmetic over the rate of a large matrix product, and its traffic over the rate of a large
copy; the floor is the longer of the two. Traffic is the least there is: every convolution reads its input and weights
and writes its output once, whatever stands between (BatchNorm, ReLU) being done on the way; backward, each reads the
gradient of its output and the kept input, and writes the gradient of its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import torch
from measure import timed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Step = Literal["look", "match", "train"]
PASSES: Final[dict[Step, int]] = {"look": 1, "match": 2, "train": 3}
"""Forward; back to the images; back to the weights too. Each is as much arithmetic as the first."""
REPEATS = 5


class Work(NamedTuple):
    """Floating-point operations (a multiplication and an addition are two) and bytes of one step."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Peaks:
    """Operations a second by type, and bytes a second of a copy, read and written counted both."""

    rates: dict[str, float]
    copy: float

    def floor(self, work: Work, dtype: torch.dtype) -> float:
        """The fewest seconds that the step can take."""
        return max(work.flops / self.rates[_name(dtype)], work.bytes / self.copy)

    def share(self, work: Work, seconds: float, *, dtype: torch.dtype) -> float:
        return self.floor(work, dtype) / seconds

    def best(self, other: Peaks) -> Peaks:
        """Of two measurements, before and after what they are for: a neighbour can only make a machine look slower."""
        rates = {name: max(rate, other.rates[name]) for name, rate in self.rates.items()}
        return Peaks(rates, max(self.copy, other.copy))

    def facts(self) -> dict[str, float]:
        rates = {f"{name} GFLOP/s": round(rate / 1e9, 1) for name, rate in self.rates.items()}
        return rates | {"copy GB/s": round(self.copy / 1e9, 1)}


def measured(device: torch.device, dtype: torch.dtype, *, tiny: bool = False) -> Peaks:
    """The best of a few products each in float32 and ``dtype``, and copies; float32 on a GPU in TF32, as its
    convolutions are by default."""
    side = 256 if tiny else 8192 if device.type == "cuda" else 2048
    rates = {_name(of): _matrix_product(side, of, device) for of in dict.fromkeys((torch.float32, dtype))}
    return Peaks(rates, _copy((1 << 20) if tiny else (1 << 28), device))


def asks(step: Step, model: nn.Module, shape: tuple[int, ...], *, element: int) -> Work:
    """What a step of ``model`` on images of ``shape`` (B, 3, H, W) needs; activations of ``element`` bytes a number."""
    traffic: list[float] = []

    def look(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weights = layer.weight.numel()
        forward = inputs[0].numel() + output.numel() + weights
        kept = inputs[0].numel() * (step != "look")
        # To the weights: read what was kept and the gradient once more, and write the gradient of the weights.
        to_weights = (inputs[0].numel() + output.numel() + weights) * (step == "train")
        traffic.append(forward * min(PASSES[step], 2) + kept + to_weights)

    images = torch.empty(shape, device="meta")
    shadow = _on_meta(model)
    layers = [layer for layer in shadow.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(look) for layer in layers]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(images)
    for handle in handles:
        handle.remove()
    return Work(float(PASSES[step] * counter.get_total_flops()), sum(traffic) * element)


def _on_meta(model: nn.Module) -> nn.Module:
    """The model's shape, without its numbers."""
    from copy import deepcopy

    return deepcopy(model).to("meta").eval()


def _matrix_product(side: int, dtype: torch.dtype, device: torch.device) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        timed(lambda: left @ right, device)
        return 2.0 * side**3 / min(timed(lambda: left @ right, device) for _ in range(REPEATS))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _copy(count: int, device: torch.device) -> float:
    """Of ``count`` bytes, many times what a core's own caches hold."""
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    timed(lambda: target.copy_(source), device)
    return 2.0 * count / min(timed(lambda: target.copy_(source), device) for _ in range(REPEATS))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
