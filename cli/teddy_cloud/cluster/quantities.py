"""Amounts as Kubernetes writes them.

number("8Gi")  # 8589934592
mebibytes(number("8Gi") // 4)  # "2048Mi"
"""

from __future__ import annotations

import re
from math import ceil
from typing import Final

_UNITS: Final = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": float(1024**power) for power, letter in enumerate("KMGT", start=1)
}


def number(quantity: str) -> float:
    """The plain number: bytes of a memory, cores of a CPU."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity)
    if not found or found[2] not in _UNITS:
        raise ValueError(f"{quantity!r} is not a quantity")
    return float(found[1]) * _UNITS[found[2]]


def times(quantity: str, count: int) -> str:
    """``count`` times as much, in the same unit where that stays exact."""
    found = re.fullmatch(r"([0-9]+)([A-Za-z]*)", quantity)
    if found:
        return f"{int(found[1]) * count}{found[2]}"
    return f"{ceil(number(quantity) * count * 1000)}m"


def mebibytes(size: float) -> str:
    """At most ``size`` bytes, in whole Mi."""
    return f"{int(size) >> 20}Mi"
