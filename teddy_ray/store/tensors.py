"""Tensors as safetensors: plain bytes with a JSON header, which no reader ever executes.

from_bytes(to_bytes(model.state_dict(), {"arch": "convnet"}))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from teddy_ray.errors import WorldError


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The tensors, from whatever device and in whatever memory layout, as the same bytes whenever they are equal."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return _ordered(safetensors.torch.save(plain, dict(metadata or {})))


def from_bytes(data: bytes, *, name: str = "a tensor file") -> dict[str, Tensor]:
    """What ``to_bytes`` wrote, on the CPU; WorldError naming it where it is damaged or something else."""
    try:
        return safetensors.torch.load(data)
    except SafetensorError as error:
        raise WorldError(f"{name} is damaged or not safetensors ({error}): make it again") from error


def open_mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a big file, mapped: read when used, and private, so that writing to them leaves the file alone."""
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise WorldError(f"{path} is damaged or not safetensors ({error}): make it again") from error


def _ordered(data: bytes) -> bytes:
    """The same file with its header's entries in order: safetensors puts metadata in another order each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # tensors must begin at a multiple of 8
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(data)[end:]))
