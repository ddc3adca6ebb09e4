"""What "auto" means on this machine, for the whole of ``compute``; a run's spec is stored with it."""

from __future__ import annotations

import importlib.util
import os
import platform
from pathlib import Path
from typing import Literal

import torch

from teddy_ray.errors import UserError
from teddy_ray.method.compiling import can_compile
from teddy_ray.method.optimisation import gains_by_winograd, has_bfloat16
from teddy_ray.spec import ComputeSpec, Spec

_COMPILING = (
    "a C++ compiler, Python's headers (Debian: g++ and python3-dev) and a temporary folder that can be written to, and"
    " not all of them are here"
)


def settle(spec: Spec) -> Spec:
    """The spec without an "auto" in it. Raises UserError for a device or executor that this machine lacks."""
    device = _device(spec.compute.device)
    precision = precision_on(device, spec.compute)
    workers = spec.compute.workers or (torch.cuda.device_count() if device == "cuda" else _cores())
    executor = spec.compute.executor
    if executor == "auto":
        executor = "ray" if (workers > 1 or spec.base.replicas > 1) and _has_ray() else "inline"
    if executor == "inline" and spec.base.replicas > 1:
        raise UserError(
            f"base.replicas = {spec.base.replicas} needs as many processes, which only Ray gives: set"
            " compute.executor=ray, or base.replicas=1"
        )
    if executor == "ray" and not _has_ray():
        raise UserError(
            "compute.executor = 'ray', but Ray is not installed here: install 'ray[default,train]', or set inline"
        )
    compute = ComputeSpec(
        device=device,
        precision=precision,
        compile=_compile(spec, device),
        convolutions=convolutions_on(device, precision, spec.compute),
        executor=executor,
        workers=workers,
    )
    return spec.model_copy(update={"compute": compute})


def precision_on(device: Literal["cpu", "cuda"], asked: ComputeSpec) -> Literal["float32", "bfloat16"]:
    """The precision that a run has on this machine's ``device``."""
    if asked.precision == "auto":
        return "bfloat16" if has_bfloat16(torch.device(device)) else "float32"
    return asked.precision


def convolutions_on(
    device: Literal["cpu", "cuda"], precision: Literal["float32", "bfloat16"], asked: ComputeSpec
) -> Literal["direct", "winograd"]:
    """How a run's convolutions go on this machine's ``device``. Raises UserError for a way that it lacks."""
    on = torch.device(device)
    able = device == "cpu" and can_compile(on)
    if asked.convolutions == "auto":
        return "winograd" if able and gains_by_winograd(on, bfloat16=precision == "bfloat16") else "direct"
    if asked.convolutions == "winograd" and not able:
        lacks = f"it needs {_COMPILING}" if device == "cpu" else "this run is on a GPU"
        raise UserError(
            f"compute.convolutions = 'winograd' is for a CPU, and {lacks}: set compute.convolutions=direct, or auto"
        )
    return asked.convolutions


def device_name(device: str) -> str:
    """What the maker calls this machine's CPU, or its first GPU."""
    if device == "cuda":
        return torch.cuda.get_device_name(0)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _device(name: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("compute.device = 'cuda', but torch sees no CUDA device here: use --device cpu, or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _compile(spec: Spec, device: str) -> Literal["large", "always", "never"]:
    asked, able = spec.compute.compile, can_compile(torch.device(device))
    if asked == "auto":
        return "large" if able else "never"
    if asked != "never" and not able:
        raise UserError(f"compute.compile = '{asked}' needs {_COMPILING}: set compute.compile=never, or auto")
    return asked


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_ray() -> bool:
    return importlib.util.find_spec("ray") is not None
