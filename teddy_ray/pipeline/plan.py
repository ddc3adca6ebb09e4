"""What a run on this machine will make and cost, before it is made: counts from the spec and the data, seconds from a
step of each kind that is timed here and now. Nothing is written.
"""

from __future__ import annotations

from typing import Any

from teddy_ray import data
from teddy_ray.method.pixels import Pixels
from teddy_ray.pipeline.context import RealData
from teddy_ray.pipeline.counts import Facts, counts, seconds, works
from teddy_ray.pipeline.stages.data import refuse_impossible
from teddy_ray.pipeline.timing import step_seconds
from teddy_ray.spec import Spec

Plan = dict[str, Any]


def plan(spec: Spec) -> Plan:
    """Counts, steps and bytes of a settled spec; ``seconds`` of worker time a stage, timed here. Raises UserError."""
    real = _real(spec)
    refuse_impossible(spec, real)
    facts = facts_of(real)
    todo = works(spec, facts)
    busy = {stage: round(both["busy"], 1) for stage, both in seconds(todo, step_seconds(spec, todo, facts), 1).items()}
    made = counts(spec, facts.classes)
    sets = made.pop("sets")
    return {
        **made,
        "steps": steps(spec, facts),
        "seconds": {**dict.fromkeys(("base", "distill", "evaluate"), 0.0), **busy},
        "notes": [
            f"{sets} image sets are labelled, the synthetic one and its controls",
            "seconds are worker time, from steps timed just now on this machine; what the store has costs nothing",
        ],
    }


def steps(spec: Spec, facts: Facts) -> dict[str, int]:
    """How often each stage's optimiser steps; a step of distill is one over all the models drawn for it."""
    taken = dict.fromkeys(("base", "distill", "evaluate"), 0)
    for work in works(spec, facts):
        if work.step != "look":
            taken[work.stage] = taken.get(work.stage, 0) + work.steps * work.tasks
    taken["distill"] //= spec.distill.models_per_step
    return taken


def facts_of(real: RealData) -> Facts:
    """What there is, decoded."""
    return Facts(real.classes, len(real.train_labels), len(real.test_labels), real.size[0])


def _real(spec: Spec) -> RealData:
    dataset = data.load(spec.data)
    return RealData(
        dataset.train.images,
        dataset.train.labels,
        dataset.test.images,
        dataset.test.labels,
        class_names=dataset.class_names,
        flip=dataset.flip,
        skipped=dataset.skipped,
        pixels=Pixels.of(dataset.train.images),
        digest="",
    )
