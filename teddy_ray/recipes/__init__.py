"""Recipes: named presets of the spec, as TOML files beside this one, each value with its source."""

from __future__ import annotations

import difflib
import tomllib
from importlib.resources import files
from typing import Any

from teddy_ray.errors import UserError


def names() -> list[str]:
    """The names of all recipes."""
    return sorted(entry.name[: -len(".toml")] for entry in files(__name__).iterdir() if entry.name.endswith(".toml"))


def load(name: str) -> dict[str, Any]:
    """The settings of the recipe ``name``. Raises UserError for a name that is none."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise UserError(f"unknown recipe '{name}'{hint}; the recipes are {', '.join(names())}")
    return tomllib.loads(files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
