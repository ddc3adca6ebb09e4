"""How the commands about runs print: where, in what colours, and how a score is written."""

from __future__ import annotations

import os
import sys

from rich.console import Console

STATE_STYLES = {
    "finished": "green", "running": "cyan", "stopped": "yellow", "failed": "red", "unreadable": "red",
    "queued": "yellow", "provisioning": "cyan", "starting": "cyan", "retrying": "yellow", "paused": "yellow",
    "cancelled": "yellow", "invalid": "red",
}  # fmt: skip
FILE_COLUMNS = 160


def console() -> Console:
    """Standard output; one that is no terminal is taken for wide, so that names stay whole."""
    width = FILE_COLUMNS if not sys.stdout.isatty() and "COLUMNS" not in os.environ else None
    return Console(highlight=False, width=width)


def points(accuracy: float, spread: float | None) -> str:
    """``84.1 ± 0.4``, or without a spread where one seed was all."""
    return f"{accuracy:.1f}" + ("" if spread is None else f" ± {spread:.1f}")
