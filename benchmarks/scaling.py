"""Units a second from 1 to 16 workers of a local Ray, with the real queue, trainer, store and events; only what a unit
computes is replaced, by a sleep. So 16 workers fit on two cores, and what is left is what we add.

A unit sleeps as long as one of ResNet-18 takes on a GPU (some 15 s: 1000 steps of batch 100 at 64x64), says once a
second how far it is, as units do, and commits a file of 100 such images. Anything but the sleep counts as outside of
units: taking it from the queue, progress, the record.

A worker's time is from its first unit's start to its last one's, so whole rounds; the workers' rates are added. What
is before stands beside it, in seconds: on two cores 16 processes start one after another, on 16 machines at once.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import Asked
from tables import Row

from teddy_ray.pipeline.context import Context, Task
from teddy_ray.pipeline.executors import Part
from teddy_ray.pipeline.journal import Journal
from teddy_ray.pipeline.settle import settle
from teddy_ray.spec import digest, resolve
from teddy_ray.store import open_store, records, tensors

WORKERS = (1, 4, 16)
UNIT_SECONDS, UNITS_A_WORKER = 15.0, 3
IMAGES = (100, 3, 64, 64)
TICK_SECONDS = 0.05


@dataclass(frozen=True)
class Stage:
    """Of a number of workers: each one's whole rounds and their seconds, and the stage's seconds around them."""

    workers: int
    done: list[tuple[int, float]]
    until_first: float
    until_all: float
    whole: float

    @property
    def rate(self) -> float:
        """Units a second of all workers; one that came too late for a second unit adds nothing."""
        return sum(rounds / seconds for rounds, seconds in self.done if rounds)

    def outside(self, unit_seconds: float) -> float:
        """The share of the workers' time that was spent on something else than a unit's own work."""
        rounds, seconds = (sum(of) for of in zip(*self.done, strict=True))
        return 1.0 - rounds * unit_seconds / seconds


def rows(asked: Asked) -> Iterator[Row]:
    """For each number of workers, its rate over linear, and the share of time outside units."""
    seconds, each = (0.5, 2) if asked.tiny else (UNIT_SECONDS, UNITS_A_WORKER)
    alone = 0.0
    for workers in (1, 2) if asked.tiny else WORKERS:
        stage = measured(workers, seconds, each)
        alone = alone or stage.rate
        what = f"{workers} worker{'s' * (workers > 1)}, {workers * each} units of {seconds:g} s"
        more = {
            "seconds until the first unit": stage.until_first,
            "until all workers had one": stage.until_all,
            "whole stage": stage.whole,
        }
        yield Row(
            part="scaling", name=f"{what}: units a second over linear", ratio=stage.rate / (workers * alone),
            unit="/s", ours=stage.rate, reference=workers * alone, at_least=0.95, more=more,
        )  # fmt: skip
        yield Row(
            part="scaling", name=f"{what}: share of time outside units", ratio=stage.outside(seconds), unit="",
            ours=stage.outside(seconds), at_most=0.02, more=more,
        )  # fmt: skip
        yield Row(
            part="scaling", name=f"{what}: seconds until all workers had their first", ratio=stage.until_all,
            unit="s", ours=stage.until_all, more=more,
        )  # fmt: skip


def measured(workers: int, seconds: float, each: int) -> Stage:
    """One stage on a fresh Ray and store."""
    from teddy_ray.pipeline.executors.ray import RayExecutor, Site

    settings = {"compute.executor": "ray", "compute.workers": workers, "compute.device": "cpu"}
    spec = settle(resolve("teddy", {}, settings))
    tasks = [
        Task("unit", digest("asleep", workers, number), f"u{number:04d}", {"seconds": seconds}, begun=False)
        for number in range(workers * each)
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(str(Path(folder) / "store"))
        with Journal(store, "runs/asleep") as journal:
            context = Context(spec, store, journal)
            with RayExecutor(context, Site(cluster=False, gpus=False)) as ray:
                began = time.time()
                ray.run("distill", sleep, tasks, part=Part.TRAINER)
                end = time.time()
        made = records.find_among(store, "unit", [task.digest for task in tasks])
    by_worker = defaultdict(list)
    for task in tasks:
        meta = made[task.digest].meta
        by_worker[meta["worker"]].append(meta["began"])
    firsts = [min(starts) for starts in by_worker.values()]
    return Stage(
        workers,
        [(len(starts) - 1, max(starts) - min(starts)) for starts in by_worker.values()],
        until_first=min(firsts) - began,
        until_all=max(firsts) - began,
        whole=end - began,
    )


def sleep(context: Context, task: Task) -> None:
    """A unit whose work is to wait, and whose outcome is noise; its record says who slept, and when."""
    began, seconds = time.time(), task.inputs["seconds"]
    while (passed := time.time() - began) < seconds:
        time.sleep(min(TICK_SECONDS, seconds - passed))
        if context.due():
            context.progress("distill", task.name, int(passed), int(seconds), loss=1.0)
    images = torch.randint(0, 256, IMAGES, dtype=torch.uint8)
    files = {"images.safetensors": tensors.to_bytes({"images": images})}
    records.commit(context.store, "unit", task.digest, files, {"worker": os.getpid(), "began": began})
