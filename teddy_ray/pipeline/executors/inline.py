"""Everything in this process, one task after another: for debugging, and for a machine that has only torch."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from teddy_ray.pipeline.context import Context, Task
from teddy_ray.pipeline.events import Stage, event
from teddy_ray.pipeline.executors.base import Part, Work


class InlineExecutor:
    """An Executor with no workers but the caller."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def run(self, stage: Stage, work: Work, tasks: Sequence[Task], *, part: Part, replicas: int = 1) -> None:  # noqa: ARG002
        """One after another. One process has but one part, and one replica: settle() refuses more."""
        for task in tasks:
            work(self.context, task)
            self.context.emit(event("task_done", stage, task=task.name))

    def once(self, work: Work, task: Task) -> None:
        work(self.context, task)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None
