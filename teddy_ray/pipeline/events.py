"""What a run says while it works: small JSON objects that the terminal, a log and the store all read.

    {"time": 1.7e9, "kind": "progress", "stage": "distill", "task": "c0000-s0000", "done": 5, "total": 9, "values": {}}

A stage's tasks (an epoch, a member, a unit, a shard, a student) report how far they are; the stage's own line says
how many of its tasks there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NotRequired, TypedDict, cast

STAGES = ("data", "base", "pool", "distill", "relabel", "evaluate", "report")
Stage = Literal["data", "base", "pool", "distill", "relabel", "evaluate", "report"]
Kind = Literal["stage_started", "progress", "task_done", "stage_done", "preview", "note", "alive", "ended"]


class Event(TypedDict):
    """One thing that happened.

    stage_started: ``total`` tasks, ``done`` of them reused. progress: ``task`` is at ``done`` of ``total`` steps, and
    ``values`` holds its numbers (loss, statistics, class, images_per_second, accuracy). task_done: it is committed.
    stage_done: ``values["seconds"]``. preview: ``png``, the base64 of a small picture of ``task``. note: ``message``.
    alive: the attempt is at work, and has nothing else to say. ended: ``outcome`` and ``message`` say why it is not.
    """

    time: float
    kind: Kind
    stage: Stage
    task: NotRequired[str]
    done: NotRequired[int]
    total: NotRequired[int]
    values: NotRequired[Mapping[str, float]]
    message: NotRequired[str]
    outcome: NotRequired[Literal["failed", "stopped"]]
    png: NotRequired[str]


Emit = Callable[[Event], None]


def event(kind: Kind, stage: Stage, **fields: Any) -> Event:
    """An event of now."""
    return cast(Event, {"time": time.time(), "kind": kind, "stage": stage, **fields})
