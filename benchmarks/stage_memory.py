"""Memory, each figure from a process of its own: a distil step's against the reference's, and what a host holds during
relabel and evaluate as IPC and the number of label views grow.

    python benchmarks/stage_memory.py --measure step-ours --device cpu        # bytes
    python benchmarks/stage_memory.py --measure host --ipc 50 --views 10

A step's memory is what it takes on top of models and images: on CUDA the allocator's peak, on a CPU how far the
process's peak (VmHWM) lies above what it holds between steps. There the first step, which compiles, does not count:
what it has freed is given back to the kernel (malloc_trim) before the others. ResNet-18, 64x64, batch 100.
A host's is the peak of the process that relabels and trains a student: 200 classes of 8x8 noise, so that labels are as
large beside the rest as they are with ImageNet's thousand classes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import subjects
import torch
from measure import Asked, synchronise
from tables import Row

from teddy_ray.pipeline.memory import keep_freed

STEPS = 2
CLASSES, REAL_A_CLASS, SIDE = 200, 52, 8
GIB = float(1 << 30)


def rows(asked: Asked) -> Iterator[Row]:
    """The step, then, on a CPU, the host."""
    ours, reference = (_asked_of("step-" + whose, asked)["bytes"] / GIB for whose in ("ours", "reference"))
    yield Row(
        part="memory", name="a distil step on top of models and images, ResNet-18, 64x64, batch 100: over SRe2L's",
        ratio=ours / reference, unit="GiB", ours=ours, reference=reference, at_most=0.6, threads=1,
    )  # fmt: skip
    if not asked.cuda:
        few = _host(asked, 10, 10)
        for what, most in (("IPC 50 over IPC 10", _host(asked, 50, 10)), ("100 views over 10", _host(asked, 10, 100))):
            yield Row(
                part="memory", name=f"host, relabel and evaluate: {what}", ratio=most["peak"] / few["peak"],
                unit="GiB", ours=most["peak"] / GIB, reference=few["peak"] / GIB, at_most=1.1, threads=1,
                more={"before, GiB": [found["before"] / GIB for found in (most, few)]},
            )  # fmt: skip


def _host(asked: Asked, ipc: int, views: int) -> dict[str, Any]:
    few = (2, 2) if asked.tiny else (ipc, views)
    return _asked_of("host", asked, "--ipc", str(few[0]), "--views", str(few[1]))


def _asked_of(what: str, asked: Asked, *more: str) -> dict[str, Any]:
    """What a fresh process measures."""
    command = [sys.executable, __file__, "--measure", what, "--device", str(asked.device), *more]
    command += ["--tiny"] * asked.tiny + ["--eager"] * (not asked.compiled)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """One measurement, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=["step-ours", "step-reference", "host"], required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--eager", action="store_true")
    given = parser.parse_args()
    asked = Asked(device=torch.device(given.device), tiny=given.tiny, compiled=not given.eager)
    torch.set_num_threads(1)
    if given.measure == "host":
        print(json.dumps(host(given.ipc, given.views)))
    else:
        print(json.dumps({"bytes": step(asked, ours=given.measure == "step-ours")}))


def step(asked: Asked, *, ours: bool) -> int:
    """Bytes that steps take beyond what was held before the first; ours with the pipeline's ``keep_freed``."""
    batch, size = asked.size(100, 8), 64
    model = subjects.network(asked, size)
    if ours:
        keep_freed()
    of: Any = (subjects.synthesis if ours else subjects.recovery)(
        asked, [model] if ours else model, batch=batch, size=size
    )
    before = torch.cuda.memory_allocated(asked.device) if asked.cuda else 0
    of.step()  # compiles, and finds the convolutions' algorithms
    if asked.cuda:
        torch.cuda.reset_peak_memory_stats(asked.device)
    else:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        forget_peak()
        before = of_process("VmRSS")
    for _ in range(STEPS):
        of.step()
    synchronise(asked.device)
    return (torch.cuda.max_memory_allocated(asked.device) if asked.cuda else of_process("VmHWM")) - before


def host(ipc: int, views: int) -> dict[str, int]:
    """Bytes that the process held before relabel, and at most from there to the end of evaluate."""
    from teddy_ray.pipeline import driver
    from teddy_ray.pipeline.events import Event
    from teddy_ray.spec import resolve
    from teddy_ray.store import open_store

    found: dict[str, int] = {}

    def listen(event: Event) -> None:
        if (event["kind"], event["stage"]) == ("stage_started", "relabel"):
            forget_peak()
            found["before"] = of_process("VmRSS")
        elif (event["kind"], event["stage"]) == ("stage_done", "evaluate"):
            found["peak"] = of_process("VmHWM")

    with tempfile.TemporaryDirectory() as folder:
        _write_dataset(Path(folder))
        settings = {
            "data.source": folder, "base.epochs": 1, "base.warmup_epochs": 0.0, "base.threads": 1, "pool.kind": "none",
            "pool.size": 0, "distill.match": "base", "distill.init": "real", "distill.iterations": 0,
            "distill.ipc": ipc, "relabel.labellers": "base", "relabel.views": views, "evaluate.epochs": 2,
            "evaluate.seeds": 1, "evaluate.batch_size": 250, "evaluate.regimes": ["views"], "evaluate.controls": [],
            "compute.device": "cpu", "compute.executor": "inline",
        }  # fmt: skip
        driver.run(resolve("random", {}, settings), open_store(f"{folder}/store"), emit=listen)
    return found


def _write_dataset(folder: Path) -> None:
    from teddy_ray.store import images

    names = [f"class {number:03d}" for number in range(CLASSES)]
    for split, each in (("train", REAL_A_CLASS), ("val", 1)):
        labels = torch.arange(CLASSES).repeat(each)
        data = images.to_parquet(subjects.pictures(len(labels), SIDE), labels, names)
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(data)


def of_process(what: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def forget_peak() -> None:
    """Set VmHWM back to what the process holds now."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
