"""Runs of ``teddy-cloud run`` as benchmarks start them: equal but for what is compared, in one store, where what two
have in common is made once.

    parser = options_parser(__doc__)
    results = carried_out({"distill.iterations": 100}, recipe="teddy", options=parser.parse_args())
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEDDY_CLOUD = str(Path(sys.executable).with_name("teddy-cloud"))
TINY_IMAGENET = "../shared/data/tiny-imagenet-200"


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """What every such benchmark is told: the data, and where the runs are kept."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=TINY_IMAGENET)
    parser.add_argument("--classes", default="10")
    parser.add_argument("--ipc", default="10")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--store", default="teddy-store")
    return parser


def carried_out(settings: Mapping[str, Any], *, recipe: str, options: argparse.Namespace) -> dict[str, Any]:
    """The results.json of a run with these settings, by dotted names."""
    command = [
        *(TEDDY_CLOUD, "run", "--json", "--recipe", recipe, "--store", options.store, "--data", options.data),
        *("--classes", options.classes, "--ipc", options.ipc, "--workers", options.workers),
        *as_flags(settings),
    ]
    print(f"\n{shlex.join(command[1:])}", file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    results: dict[str, Any] = json.loads((Path(json.loads(done.stdout)["folder"]) / "results.json").read_text())
    return results


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """``--set key=value`` for each."""
    return [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def as_text(settings: Mapping[str, Any]) -> str:
    """``key = value, …``, for people."""
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
