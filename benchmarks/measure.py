"""How the benchmarks time: ours and a reference by turns, in one process, at one number of threads.

    seconds = by_turns(ours, reference, repeats=5, device=device)
    median(seconds.ours), median(seconds.reference)

``machine`` says what was measured on: by turns, since neighbours on a shared machine make its speed drift.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "sve",
)
"""Of a CPU's flags, those that decide how fast its arithmetic is."""
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
"""Variables that keep torch from instructions which a CPU has: to see what one without them would do."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every part is told. ``tiny``: sizes that show that it works, and nothing else."""

    device: torch.device
    tiny: bool
    compiled: bool
    float32: bool = False
    """Ours in float32 whatever the device has: what a CPU without bfloat16 instructions would do."""

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def size(self, real: int, tiny: int) -> int:
        return tiny if self.tiny else real


class Seconds(NamedTuple):
    """Of every repeat, in order."""

    ours: list[float]
    reference: list[float]


def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def by_turns(
    ours: Callable[[], object], reference: Callable[[], object], *, repeats: int, device: torch.device, warm: int = 1
) -> Seconds:
    """Each ``repeats`` times, ABAB, after ``warm`` calls that are not counted (compilation, first allocations)."""
    for _ in range(warm):
        timed(ours, device), timed(reference, device)
    pairs = [(timed(ours, device), timed(reference, device)) for _ in range(repeats)]
    return Seconds([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, until the device has done all of it."""
    synchronise(device)
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def thread_counts(asked: Asked) -> list[int]:
    """1 and 2 on a CPU that has two; a GPU does not care."""
    return [1] if asked.cuda or asked.tiny or cores() < 2 else [1, 2]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: torch.device) -> dict[str, Any]:
    """The device with its features, and the versions that matter."""
    features = cpu_features()
    limits = [f"{variable}={os.environ[variable]}" for variable in LIMITS if variable in os.environ]
    if device.type == "cuda":
        of = torch.cuda.get_device_properties(device)
        name, features = of.name, [f"sm_{of.major}{of.minor}", f"{of.total_memory >> 30} GiB"]
        slug = name.lower().replace(" ", "-")
    else:
        name = cpu_name()
        best = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in features]
        slug = "-".join(["cpu", *best[:1], *["limited"] * bool(limits)]).replace("_", "-")
    return {
        "device": name,
        "slug": slug,
        "features": features,
        "limits": limits,
        "cores": cores(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def cpu_features() -> list[str]:
    flags = set(_cpuinfo("flags").split()) or set(_cpuinfo("Features").split())
    return [feature for feature in FEATURES if feature in flags]


def cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
