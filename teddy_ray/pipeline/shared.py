"""What the processes of a Ray run share: the hub of what they say, and a trainer's queue.

Each is an actor, so a process of its own, which starts in a moment because this module imports neither torch nor Ray.
"""

from __future__ import annotations

from teddy_ray.pipeline.events import Event


class Hub:
    """Where workers' events wait for the driver, and the records that they have made, as JSON."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.records: list[bytes] = []

    def push(self, event: Event) -> None:
        self.events.append(event)

    def drain(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def keep(self, record: bytes) -> None:
        self.records.append(record)

    def kept(self) -> list[bytes]:
        records, self.records = self.records, []
        return records


class Queue:
    """A trainer's tasks, by number. When a group of workers is restarted, all tasks are offered again: those that are
    done are found in the store and cost nothing. Holds the first failure of a task itself, which no trainer retries."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.left = list(range(tasks))
        self.handed: set[int] = set()
        self.group: set[tuple[str, int]] = set()
        self.failure: Exception | None = None

    def join(self, group: str, rank: int) -> None:
        """A worker begins, the ``rank``-th of its group. One of another group, or the same again, means a new group,
        be it larger or smaller than the last."""
        if (group, rank) in self.group or any(other != group for other, _ in self.group):
            self.group, self.left = set(), list(range(self.tasks))
        self.group.add((group, rank))

    def take(self) -> tuple[int, bool] | None:
        """The next task, and whether somebody has had it before."""
        if not self.left or self.failure is not None:
            return None
        number = self.left.pop(0)
        again = number in self.handed
        self.handed.add(number)
        return number, again

    def fail(self, failure: Exception) -> None:
        self.failure = self.failure or failure

    def failed(self) -> Exception | None:
        return self.failure
