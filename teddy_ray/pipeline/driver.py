"""The driver: a run from its spec to its manifest, stage by stage.

    results = run(spec, open_store("teddy-store"), emit=print)

Whatever is in the store already is not made again; that is all there is to resuming, retrying and growing a run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from teddy_ray.pipeline import addresses, executors, imagesets, results
from teddy_ray.pipeline.context import Context, Task
from teddy_ray.pipeline.events import Emit, Event, Stage, event
from teddy_ray.pipeline.executors import Executor, Part, Work
from teddy_ray.pipeline.journal import Journal
from teddy_ray.pipeline.memory import keep_freed
from teddy_ray.pipeline.names import run_name
from teddy_ray.pipeline.results import Made, Results
from teddy_ray.pipeline.settle import device_name, settle
from teddy_ray.pipeline.stages import base, data, distill, evaluate, pool, relabel, report
from teddy_ray.pipeline.stopping import unmasked
from teddy_ray.spec import Spec
from teddy_ray.store import Store, records
from teddy_ray.store.records import Record


def run(spec: Spec, store: Store, *, emit: Emit) -> Results:
    """Carry ``spec`` out on this machine, or go on with it; returns what results.json holds.

    Raises UserError for what cannot be done, WorldError for what went wrong, KeyboardInterrupt when told to
    stop. Whatever was finished by then is kept.
    """
    spec = settle(spec)
    return attempt(Context(spec, store, emit), run_name(spec), executors.executor)


def attempt(context: Context, name: str, executor: Callable[[Context], Executor]) -> Results:
    """One try at the run ``name``: the context's settled spec, in its store, where ``executor`` says.

    Returns and raises as ``run`` does.
    """
    keep_freed()
    store, emit = context.store, context.emit
    folder = f"runs/{name}"
    journal = Journal(store, folder)

    def say(what: Event) -> None:
        journal(what)
        emit(what)

    context = replace(context, emit=say, device_name=context.device_name or device_name(context.spec.compute.device))
    stages = _Stages(context, folder)
    first = _begin(context, stages)
    # Only now: what is refused leaves no run behind.
    store.put_if_absent(f"{folder}/spec.json", context.spec.to_json().encode())
    with journal, unmasked():
        stages.claim("data", [stages.made.data])
        with executor(context) as workers:
            made = _carry_out(context, stages, workers, first)
        found = results.collect(context, name, made)
        say(event("stage_started", "report", done=0, total=1))
        with _Timed(made, "report", say):
            publication = report.write(context, folder, found, made)
    publication.finish(store)
    return found


def _begin(context: Context, stages: _Stages) -> list[Task]:
    """Read the real data, refuse what it shows to be impossible; the base's tasks."""
    here = executors.InlineExecutor(context)
    stages.made.data = stages.run("data", data.tasks(context.spec), data.work, here, Part.TASKS)[0]
    context.data_digest = stages.made.data.digest
    data.refuse_impossible(context.spec, context.real)
    return base.tasks(context)


def _carry_out(context: Context, stages: _Stages, executor: Executor, first: Sequence[Task]) -> Made:
    """The way of the data."""
    made = stages.made
    replicas = context.spec.base.replicas
    stages.claim("checkpoints", base.checkpoint_tasks(context, first[0]))
    made.base = stages.run("base", first, base.work, executor, Part.TRAINER, replicas=replicas)[0]
    made.pool = stages.run("pool", pool.tasks(context, made.base), pool.work, executor, Part.ACTORS)

    unit_tasks = distill.tasks(context, made.base, made.pool)
    made.units = stages.run("distill", unit_tasks, distill.work, executor, Part.TRAINER)
    made.sets = {"distilled": imagesets.publish(context, made.units)}
    made.sets |= imagesets.control_sets(context, [made.base, *made.pool], executor)
    stages.claim("images", list(made.sets.values()))

    shards = {name: relabel.tasks(context, images, made.base, made.pool) for name, images in made.sets.items()}
    every = [task for tasks in shards.values() for task in tasks]
    labelled = stages.run("relabel", every, relabel.work, executor, Part.TASKS)
    done = iter(labelled)
    made.labels = {name: [next(done) for _ in tasks] for name, tasks in shards.items()}

    labellers = pool.chosen(context.spec.relabel.labellers, made.base, made.pool)
    students = evaluate.tasks(context, made.sets, made.labels, labellers)
    made.students = stages.run("evaluate", students, evaluate.work, executor, Part.TASKS)
    return made


class _Stages:
    """Runs what a stage still has to do, and tells of it."""

    def __init__(self, context: Context, folder: str) -> None:
        self.context, self.folder, self.made = context, folder, Made()

    def claim(self, name: str, artifacts: Sequence[Task | Record]) -> None:
        """Say in the store which artifacts the run makes or takes, so that ``gc`` leaves them alone meanwhile."""
        keys = [addresses.record_key(artifact.stage, artifact.digest) for artifact in artifacts]
        self.context.store.put_bytes(f"{self.folder}/records/{name}.json", json.dumps(keys).encode())

    def run(
        self, stage: Stage, tasks: Sequence[Task], work: Work, executor: Executor, part: Part, *, replicas: int = 1
    ) -> list[Record]:
        """The records of all tasks, in their order."""
        say = self.context.emit
        if stage != "data":  # which alone precedes the run's folder
            self.claim(stage, tasks)
        found, begun = self._looked_up(tasks)
        left = [replace(task, begun=task.digest in begun) for task in tasks if task.digest not in found]
        # A prior member is a checkpoint, and as new as its base.
        with_base = any(task.stage == "checkpoint" for task in tasks) and "base" not in self.made.reused_stages
        if tasks and not left and not with_base:
            self.made.reused_stages.append(stage)
        if stage == "distill":
            self.made.reused_units = [task.name for task in tasks if task.digest in found]
        say(event("stage_started", stage, done=len(tasks) - len(left), total=len(tasks)))
        if stage == "distill" and left:
            for task in tasks:
                if task.digest in found:
                    distill.show_made(self.context, task, found[task.digest])
        with _Timed(self.made, stage, say):
            executor.run(stage, work, left, part=part, replicas=replicas)
        for stage_of_record in {task.stage for task in left}:
            found |= records.find_among(self.context.store, stage_of_record, [task.digest for task in left])
        return [found[task.digest] for task in tasks]

    def _looked_up(self, tasks: Sequence[Task]) -> tuple[dict[str, Record], set[str]]:
        """What is made, by digest; and the digests of which there may be something. Tidies up after killed attempts."""
        store, found, begun = self.context.store, dict[str, Record](), set[str]()
        for stage in {task.stage for task in tasks}:
            digests = [task.digest for task in tasks if task.stage == stage]
            keys = records.keys_of(store, stage)
            made = records.find_among(store, stage, digests, keys=keys)
            states = {digest: addresses.resume_key(stage, digest) for digest in digests}
            there = {digest for digest, key in states.items() if keys is None or key in keys}
            if keys is not None or store.local_path("artifacts") is not None:  # else it costs a request each: gc's
                for digest in there & made.keys():  # its writer died when all but this was done
                    store.delete(states[digest])
            found |= made
            begun |= there
        return found, begun


class _Timed:
    """Seconds of a stage in this attempt."""

    def __init__(self, made: Made, stage: Stage, say: Emit) -> None:
        self.made, self.stage, self.say = made, stage, say

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seconds = time.monotonic() - self.started
        self.made.seconds[self.stage] = round(seconds, 3)
        if kind is None:
            self.say(event("stage_done", self.stage, values={"seconds": seconds}))
