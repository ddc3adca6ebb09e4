"""How long the command line keeps its user waiting: ``--help``, and ``status`` and ``list`` on a store of 1,000 runs.

Each is a new process with its output in a pipe, the wall clock from its start to its end. The store is a folder whose
pages the system has in memory, as after the first look. Of the runs nine in ten are finished and the others were
stopped midway; each has the files that a run of ten minutes leaves: a spec, events of one attempt, and, where finished,
the manifest and its results.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import Asked, median, timed
from runs import TEDDY_CLOUD
from tables import Row

from teddy_ray.pipeline.events import STAGES
from teddy_ray.pipeline.manifest import Manifest
from teddy_ray.pipeline.names import run_name
from teddy_ray.spec import resolve
from teddy_ray.store.records import File

RUNS, REPEATS = 1000, 10
EVENT_FILES, EVENTS_A_FILE = 20, 25
STUDENTS = 30


def rows(asked: Asked) -> Iterator[Row]:
    """Medians of ten, in seconds."""
    count, repeats = asked.size(RUNS, 20), asked.size(REPEATS, 2)
    with tempfile.TemporaryDirectory() as folder:
        names = made_up(Path(folder) / "store", count)
        stopped, finished = names[0], names[1]
        store = ["--store", f"{folder}/store"]
        yield _row(asked, "--help", ["--help"], repeats, at_most=0.3)
        for kind, name in (("finished", finished), ("stopped", stopped)):
            yield _row(asked, f"status of a {kind} run among {count:,}", ["status", name, *store], repeats, at_most=2.0)
        yield _row(asked, f"list of {count:,} runs", ["list", *store], repeats, at_most=2.0)


def _row(asked: Asked, name: str, arguments: list[str], repeats: int, *, at_most: float) -> Row:
    command = [TEDDY_CLOUD, *arguments]
    environment = os.environ | {"TEDDY_CLOUD_CONFIG": os.devnull}

    def call() -> None:
        subprocess.run(command, capture_output=True, check=True, env=environment)

    timed(call, asked.device)
    seconds = [timed(call, asked.device) for _ in range(repeats)]
    return Row(
        part="command-line", name=f"teddy-cloud {name}: seconds", ratio=median(seconds), unit="s", ours=median(seconds),
        at_most=at_most, n=repeats, more={"seconds": seconds},
    )  # fmt: skip


def made_up(root: Path, count: int) -> list[str]:
    """``count`` runs of a store, every tenth of them stopped midway; their names."""
    names = []
    for number in range(count):
        spec = resolve("teddy", {}, {"distill.ipc": 1 + number % 50, "seed": number})
        name = run_name(spec)
        folder = root / "runs" / name
        _put(folder / "spec.json", spec.to_json().encode())
        _events(folder / "events" / "0001", ended=number % 10 == 0)
        if number % 10:
            _finish(folder, name, spec.digest)
        names.append(name)
    return names


def _events(folder: Path, *, ended: bool) -> None:
    """What the first attempt said, file by file."""
    _put(folder / "began.jsonl", _lines([_event("note", "data", message="attempt 1")]))
    for number in range(EVENT_FILES):
        stage = STAGES[number * len(STAGES) // EVENT_FILES]
        said = [_event("stage_started", stage, done=0, total=100)]
        said += [
            _event("progress", stage, task=f"task-{n}", done=n, total=100, values={"loss": 1.0 / (n + 1)})
            for n in range(EVENTS_A_FILE)
        ]
        _put(folder / f"{number:06d}.jsonl", _lines(said))
    if ended:
        end = _event("ended", "evaluate", outcome="stopped", message="stopped by Ctrl-C or a signal")
        _put(folder / f"{EVENT_FILES:06d}.jsonl", _lines([end]))


def _finish(folder: Path, name: str, digest: str) -> None:
    """results.json and the manifest that lists it."""
    score = {"student": "convnet", "accuracy": 80.0, "spread": 0.5, "runs": [80.0] * 5, "construction_seconds": 60.0}
    curve = [{"epoch": epoch, "loss": 0.5, "accuracy": 80.0} for epoch in range(10)]
    found = {
        "run": name,
        "scores": [score | {"set": of, "regime": regime} for of in ("distilled", "random", "coreset", "full")
                   for regime in ("views", "fixed", "hard")],
        "students": [{"name": f"student-{n}", "curve": curve} for n in range(STUDENTS)],
    }  # fmt: skip
    data = json.dumps(found).encode()
    _put(folder / "results.json", data)
    file = File(f"runs/{name}/results.json", len(data), hashlib.sha256(data).hexdigest())
    records = [f"artifacts/unit/{n:064x}/record.json" for n in range(100)]
    _put(folder / "manifest.json", Manifest(name, digest, {"results.json": file}, records).to_json())


def _event(kind: str, stage: str, **fields: Any) -> dict[str, Any]:
    return {"time": 1.7e9, "kind": kind, "stage": stage, **fields}


def _lines(events: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(event) + "\n" for event in events).encode()


def _put(path: Path, data: bytes) -> None:
    """Without the store's flush to the disk, of which 20,000 take minutes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
