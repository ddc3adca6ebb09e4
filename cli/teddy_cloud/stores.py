"""What the commands about runs have in common: which store they look into, and how times are typed."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from teddy_ray.errors import UserError

if TYPE_CHECKING:
    from teddy_ray.store import Store

DEFAULT_STORE = "teddy-store"

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or a beginning that no other has.")]
StoreOption = Annotated[
    str, typer.Option("--store", metavar="FOLDER|s3://BUCKET/PREFIX", help="Where the runs are kept.")
]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint-url", metavar="URL", help="The S3 server, if not Amazon's; else AWS_ENDPOINT_URL_S3."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def opened(store: str, endpoint_url: str | None) -> Store:
    """The store at an address, on the server that was named."""
    if endpoint_url is not None:
        os.environ["AWS_ENDPOINT_URL_S3"] = endpoint_url  # boto3's own variable, which child processes inherit too
    from teddy_ray.store import open_store

    return open_store(store)


def seconds(text: str, *, option: str) -> float:
    """``45m``, ``12h``, ``7d`` or ``2w`` in seconds. Raises UserError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not found:
        raise UserError(f"{option} {text}: give a number and a unit (s, m, h, d, w), such as 12h or 7d")
    return float(found[1]) * _SECONDS[found[2]]


def moment(text: str, *, option: str) -> float:
    """``7d`` ago, or a date such as ``2026-11-21`` or ``2026-11-21T14:00``, in Unix time. Raises UserError."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - seconds(text, option=option)
    except UserError:
        raise UserError(f"{option} {text}: give an age such as 12h or 7d, or a date such as 2026-11-21") from None
