"""What we claim, measured beside a reference in the same run: all parts, or one.

    make bench                                              # the CPU's table, in less than 30 minutes
    make bench-gpu                                          # the GPU's, in parts that each end in 9 minutes
    python benchmarks/bench.py --only distill               # one part
    python benchmarks/bench.py --only distill --float32     # as where there are no bfloat16 instructions
    python benchmarks/bench.py --only distill --tiny        # shows that it works; nothing is kept

Each part runs in a process of its own. What it finds is merged into benchmarks/results/<date>-<device>.{json,md}.
The parts on a GPU need torch, torchvision, numpy, pyarrow and safetensors, relabel pydantic too; none Ray or Typer.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from measure import Asked, machine
from tables import RESULTS, Row, save, table

from teddy_ray.method.compiling import can_compile
from teddy_ray.pipeline.memory import keep_freed

PARTS = {
    "distill": "stage_distill",
    "relabel": "stage_relabel",
    "students": "stage_students",
    "memory": "stage_memory",
    "base": "stage_base",
    "command-line": "command_line",
    "scaling": "scaling",
    "whole-run": "whole_run",
}
"""Modules by part; each has ``rows(asked)``."""
ON_GPU = ("distill", "relabel", "students", "memory", "base")
"""The parts that are about a device; the others are about the machine around it."""


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), help="one part; else all, a process each")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tiny", action="store_true", help="sizes that show that it works; nothing is kept")
    parser.add_argument("--eager", action="store_true", help="ours without torch.compile")
    parser.add_argument("--float32", action="store_true", help="ours without bfloat16, for --only distill")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to keep them in")
    asked = parser.parse_args()
    if asked.float32 and asked.only != "distill":
        parser.error("--float32 is for --only distill: the other parts' targets are the same for every precision")
    if asked.only is None:
        sys.exit(_all(asked.device, sys.argv[1:]))
    _measure(asked)


def _all(device: str, arguments: list[str]) -> int:
    """Every part, even after one has failed; how many have."""
    failed = 0
    for part in ON_GPU if device == "cuda" else PARTS:
        started = time.monotonic()
        code = subprocess.run([sys.executable, __file__, "--only", part, *arguments], check=False).returncode
        print(f"{part}: {'done' if code == 0 else f'FAILED with {code}'} in {time.monotonic() - started:.0f} s\n")
        failed += code != 0
    return failed


def _measure(asked: argparse.Namespace) -> None:
    keep_freed()
    device = torch.device(asked.device)
    compiled = not asked.eager and can_compile(device)
    of = Asked(device=device, tiny=asked.tiny, compiled=compiled, float32=asked.float32)
    here = machine(of.device)
    command = " ".join([*here["limits"], f"python benchmarks/bench.py --only {asked.only}"])
    command += f" --device {asked.device}" * (asked.device != "cpu")
    command += " --eager" * asked.eager + " --float32" * asked.float32
    rows: list[Row] = []
    for row in importlib.import_module(PARTS[asked.only]).rows(of):
        rows.append(replace(row, name=row.name + ", in float32" * asked.float32))
        print(f"{row.verdict or '-':8} {row.ratio:8.3g} {row.target:8} {rows[-1].name}", flush=True)
        if not asked.tiny:  # at once: what is measured stays, whatever comes after it
            save(rows[-1:], machine=here, command=command, folder=asked.results)
    facts = {"torch": here["torch"], "command": command}
    print(table([asdict(row) | {"target": row.target, "verdict": row.verdict} | facts for row in rows]))


if __name__ == "__main__":
    main()
