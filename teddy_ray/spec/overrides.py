"""Layers of settings, each over the one before: nested tables, and ``a.b=c`` from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from teddy_ray.errors import UserError


def parse_override(text: str) -> tuple[str, Any]:
    """``"distill.lr=0.1"`` as ``("distill.lr", 0.1)``; values are TOML, and a bare word is a string."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set {text}: expected KEY=VALUE, such as --set distill.iterations=500")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        inner: Any = value
        for name in reversed(key.split(".")):
            inner = {name: inner}
        merge(nested, inner)
    return nested


def merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Put ``layer`` over ``into``, table by table."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
