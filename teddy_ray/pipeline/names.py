"""Names of runs.

run_name(Spec(recipe="teddy"))  # "digits-ipc1-teddy-0a1b2c3d"
"""

from __future__ import annotations

import re

from teddy_ray.spec import Spec

LONGEST = 47
"""What KubeRay allows a RayJob, whose pods' names go on behind it."""
LONGEST_WHAT = 30
"""IPC and recipe: enough for every recipe of ours."""
DIGITS = 8
"""Of the spec's digest, at the end of every name."""


def run_name(spec: Spec) -> str:
    """What a run is, for people, and its spec's digest, for truth; a DNS label of at most 47 characters."""
    source = _words(spec.data.source.rstrip("/").rsplit("/", 1)[-1])
    if not source[:1].isalpha():
        source = f"data-{source}".rstrip("-")
    what = f"ipc{spec.distill.ipc}-{_words(spec.recipe)}"[:LONGEST_WHAT].rstrip("-")
    rest = min(24, LONGEST - DIGITS - len(what) - 2)
    return f"{source[:rest].rstrip('-')}-{what}-{spec.digest[:DIGITS]}"


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
