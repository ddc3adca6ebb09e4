"""The user's defaults, so that they need not be typed: a small TOML file, strict.

    # ~/.config/teddy-cloud/config.toml, or the file that TEDDY_CLOUD_CONFIG names
    context = "prod"                          # of the kubeconfig
    namespace = "ml"
    store = "s3://bucket/runs"                # instead of the namespace's
    endpoint_url = "https://s3.example.com"

What is typed outdoes it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from teddy_ray.errors import UserError

DEFAULT_PATH = "~/.config/teddy-cloud/config.toml"


@dataclass(frozen=True)
class Config:
    """None is unset."""

    context: str | None = None
    namespace: str | None = None
    store: str | None = None
    endpoint_url: str | None = None


def load() -> Config:
    """The user's config file, or nothing where there is none. Raises UserError for what cannot be meant."""
    named = os.environ.get("TEDDY_CLOUD_CONFIG")
    path = Path(named or DEFAULT_PATH).expanduser()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named:
            raise UserError(f"TEDDY_CLOUD_CONFIG names {path}, which is not there") from None
        return Config()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    known = [field.name for field in fields(Config)]
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise UserError(f"{path}: unknown setting '{name}': {hint}")
        if not isinstance(value, str) or not value:
            raise UserError(f'{path}: {name} is a text in quotes, such as {name} = "…"')
    return Config(**values)
