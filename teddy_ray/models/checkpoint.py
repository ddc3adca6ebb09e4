"""State dicts from files: safetensors, or a PyTorch checkpoint of plain tensors."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from teddy_ray.errors import UserError, WorldError

WRAPPERS = ("state_dict", "model")  # what training scripts put a state dict under, beside epoch and optimiser
PREFIXES = ("_orig_mod.", "module.")  # what torch.compile and DataParallel put before every name


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors by name, on the CPU.

    Raises UserError for a file that is absent, damaged or no state dict, and WorldError where the disk cannot read it.
    """
    if path.suffix not in PARSERS:
        raise UserError(f"{path} is no checkpoint that can be read: its name must end in {', '.join(PARSERS)}")
    if not path.is_file():
        raise UserError(f"there is no checkpoint file at {path}: correct base.checkpoint")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WorldError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
    return _plain_names(_only_tensors(PARSERS[path.suffix](data, path), path))


def _parse_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return load(data)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged, or no safetensors file ({error}): hand in an intact one") from error


def _parse_torch(data: bytes, path: Path) -> Any:
    try:
        # A pickle, but acceptable: weights_only rebuilds tensors and plain containers, and refuses to call all else.
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged bytes the unpickler raises nearly every type there is
        raise UserError(
            f"{path} is damaged, or holds more than tensors, and nothing else is ever loaded from a pickle"
            f" ({type(error).__name__}): save the model's state_dict() alone, best as safetensors"
        ) from error


def _only_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} holds no state dict: save the model's, bare or under 'state_dict' or 'model'")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise UserError(
                f"{path} is no state dict: {name!r} is a {kind}, not a tensor; save the model's state_dict()"
            )
    return dict(content)


def _plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


PARSERS: dict[str, Callable[[bytes, Path], Any]] = {
    ".safetensors": _parse_safetensors,
    ".pt": _parse_torch,
    ".pth": _parse_torch,
}
