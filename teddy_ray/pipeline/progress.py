"""How far a run is, from what it says: the same for its own terminal and for whoever reads its events later.

stages = Stages()
for event in events:
    stages.take(event)
stages["distill"].done, stages["distill"].left()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from teddy_ray.pipeline.events import Event


@dataclass
class Running:
    """A task on its way: the share of its steps that is done, and its latest numbers."""

    share: float
    values: dict[str, float]


@dataclass
class StageProgress:
    """How far a stage is. ``seconds`` is None until it is done."""

    name: str
    started: float
    total: int
    reused: int
    now: float
    seconds: float | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    _finished: set[str] = field(default_factory=set)
    _running: dict[str, Running] = field(default_factory=dict)
    _origin: tuple[float, float] | None = None

    def advance(self, event: Event) -> None:
        """Takes a ``progress`` or ``task_done`` event of this stage."""
        self.now, task = event["time"], event["task"]
        if event["kind"] == "task_done":
            self._finished.add(task)
            self._running.pop(task, None)
        elif task not in self._finished:  # a late event would bring back a task that never ends again
            before = self._running.get(task, Running(0.0, {}))
            # Some events only say how far a task is: its numbers stay.
            values = {**before.values, **event.get("values", {})}
            self._running[task] = Running(event["done"] / event["total"], values)
            self.numbers = _combine([running.values for running in self._running.values()]) or self.numbers
        # The pace counts from the first event on, since a task that goes on from a checkpoint starts half done.
        self._origin = self._origin or (self.now, self._work())

    @property
    def done(self) -> int:
        """Tasks that are committed, now or earlier."""
        return self.reused + len(self._finished)

    @property
    def share(self) -> float:
        """Of all tasks' work."""
        return 1.0 if self.seconds is not None or not self.total else self._work() / self.total

    def left(self) -> float | None:
        """Seconds still to go at the pace so far, or None before there is one."""
        since, begun = self._origin or (self.now, 0.0)
        elapsed, made = self.now - since, self._work() - begun
        return elapsed * (self.total - self._work()) / made if made > 0 and elapsed > 0 else None

    def _work(self) -> float:
        """In tasks."""
        return self.done + sum(running.share for running in self._running.values())


def _combine(running: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Speeds add up over the running tasks; everything else is their mean."""
    combined = {}
    for name in {name: None for values in running for name in values}:
        numbers = [values[name] for values in running if name in values]
        combined[name] = sum(numbers) / (1 if name == "images_per_second" else len(numbers))
    return combined


class Stages(dict[str, StageProgress]):
    """The stages that have begun, in their order."""

    def take(self, event: Event) -> StageProgress | None:
        """The stage that ``event`` has moved, or None for one that moves none."""
        kind = event["kind"]
        if kind == "stage_started":
            return self._start(event, event["total"], event["done"])
        if kind not in ("progress", "task_done", "stage_done"):
            return None
        # A stage without tasks to announce only says that it is done.
        stage = self.get(event["stage"]) or self._start(event, 1, 0)
        if kind == "stage_done":
            stage.now, stage.seconds = event["time"], event["values"]["seconds"]
        else:
            stage.advance(event)
        return stage

    def _start(self, event: Event, total: int, done: int) -> StageProgress:
        stage = StageProgress(event["stage"], event["time"], total, done, event["time"])
        self[stage.name] = stage
        return stage
