"""What an executor is: something that carries out independent tasks, each of which commits its own record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from types import TracebackType
from typing import Protocol, Self

from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.context import Context, Task
from teddy_ray.pipeline.events import Stage, event
from teddy_ray.store import records

Work = Callable[[Context, Task], None]
"""Does one task and commits its record. A module-level function, since it may travel to another process."""


class Part(Enum):
    """The part of Ray that suits a stage; in one process they are all the same."""

    TRAINER = "trainer"
    """Long tasks that train: a TorchTrainer's workers take them from one queue, or share one as replicas."""
    ACTORS = "actors"
    """Tasks that share costly state in a process: an actor a slot."""
    TASKS = "tasks"
    """Short tasks, many."""


class Executor(Protocol):
    """Starts nothing before its first task, and leaves nothing running behind."""

    def run(self, stage: Stage, work: Work, tasks: Sequence[Task], *, part: Part, replicas: int = 1) -> None:
        """Do all tasks of a stage, in any order; the first failure is raised. ``replicas`` workers share each task."""
        ...

    def once(self, work: Work, task: Task) -> None:
        """One task that no stage counts, on a worker: the driver may have no accelerator."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def carry_out(work: Work, context: Context, stage: Stage | None, task: Task) -> None:
    """One task in a worker, unless it is done: what a lost worker had done is handed out again. A stage hears of it."""
    if not task.begun or records.find(context.store, task.stage, task.digest) is None:
        work(context, task)
    else:
        # The lost one may have been about to.
        context.store.delete(addresses.resume_key(task.stage, task.digest))
    if stage is not None and context.rank == 0:
        context.emit(event("task_done", stage, task=task.name))
