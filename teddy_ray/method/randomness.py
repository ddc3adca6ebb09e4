"""Random numbers that are a pure function of their name, on every device and in any order.

    uniform(seed, "crop", image_N, view)      # N numbers in [0, 1)

A generator would tie a number to everything drawn before it, and so the result to the number of workers. Here each
number is SplitMix64's finaliser (Steele et al., OOPSLA 2014) over its coordinates.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

Coordinate = int | str | Tensor

# SplitMix64's constants, as the signed 64-bit integers that torch has.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def bits(*name: Coordinate) -> Tensor:
    """64 random bits (int64) for every element of the coordinates, which broadcast."""
    state = torch.tensor(0, dtype=torch.int64)
    for coordinate in name:
        state = _scramble((state + _GOLDEN) ^ _integers(coordinate))
    return state


def uniform(*name: Coordinate) -> Tensor:
    """Numbers in [0, 1), float64 with 53 random bits."""
    return _shift(bits(*name), 11).to(torch.float64) * 2.0**-53


def normal(*name: Coordinate) -> Tensor:
    """Standard normal numbers (float64), by Box and Muller."""
    radius = torch.sqrt(-2.0 * torch.log1p(-uniform(*name, "radius")))
    return radius * torch.cos(2.0 * math.pi * uniform(*name, "angle"))


def permutation(count: int, *name: Coordinate) -> Tensor:
    """A random order of ``0 … count - 1`` (int64)."""
    return torch.argsort(bits(*name, torch.arange(count)), stable=True)


def seed_of(*name: Coordinate) -> int:
    """A seed for a library that wants one: 0 … 2**31 - 1."""
    return int(_shift(bits(*name), 33))


def _integers(coordinate: Coordinate) -> Tensor:
    """A 0-dim CPU tensor, for a name or a number, mixes with tensors of any device."""
    if isinstance(coordinate, Tensor):
        return coordinate.to(torch.int64)
    return torch.tensor(zlib.crc32(coordinate.encode()) if isinstance(coordinate, str) else coordinate)


def _scramble(state: Tensor) -> Tensor:
    state = (state ^ _shift(state, 30)) * _FIRST
    state = (state ^ _shift(state, 27)) * _SECOND
    return state ^ _shift(state, 31)


def _shift(state: Tensor, places: int) -> Tensor:
    """A logical shift right; torch's own copies the sign."""
    return (state >> places) & ((1 << (64 - places)) - 1)
