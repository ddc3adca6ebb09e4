"""What a run makes and does, counted from the spec and a few facts about its data; no torch, no dataset, no seconds.

facts = known(spec.data)                # None where only the data can tell
counts(spec, facts)["images"]
[work.steps for work in works(spec, facts) if work.stage == "distill"]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Any, Literal

from teddy_ray.pipeline.units import units
from teddy_ray.spec import DataSpec, Spec

LABEL_FILE_BYTES = {16: 1150, 8: 750, 4: 750}
"""What a label file takes beside its rows: its description and checksums, by the bits that are kept of a logit."""
LABEL_ROW_BYTES = 0.1
"""A row's share of the images' and views' numbers, compressed."""
LABEL_SHARES = {
    (16, False): 0.85,
    (8, False): 0.9,
    (4, False): 0.89,
    (16, True): 0.83,
    (8, True): 0.94,
    (4, True): 0.72,
}
"""What zstd leaves of the logits, by the bits and whether only the largest are kept. Measured on a dozen label files of
the digits, and on Gaussian logits of 10, 200 and 1000 classes: the bytes are within 6 %; within 12 % where 4 bits, or
16 of a few, are kept of hundreds of classes."""
LABEL_BLOCK = 2**17
"""What zstd compresses at a time. The upper halves of float16 compress, the lower do not: where both are in one block,
less is gained."""
LABEL_LOGITS = 400
"""A budget: of each image, this many logits are stored, in whole views …"""
LEAST_VIEWS = 10
"""… and no fewer of them. What that costs in accuracy: benchmarks/results, soft labels."""
SCORED_IMAGES = 250
"""Training images on which every checkpoint of the base is scored."""
CLASS_MEAN_IMAGES = 100
"""Real images of each class from which a unit learns its class means, for each model that it is matched to."""
LABEL_BATCH = 250
LABEL_ROWS_A_TASK = 20_000
LABEL_IMAGES_A_TASK = 5_000
CURVE_POINTS = 5
"""How often a student is scored on the test set."""

Step = Literal["train", "match", "look"]
"""A step of training; of matching, with a gradient for the images alone; of looking, with none."""


@dataclass(frozen=True)
class Facts:
    """What the data says, once classes and images are chosen."""

    classes: int
    train: int
    test: int
    size: int


KNOWN: Mapping[str, Facts] = {
    "digits": Facts(classes=10, train=1347, test=450, size=8),
    "cifar10": Facts(classes=10, train=50_000, test=10_000, size=32),
    "cifar100": Facts(classes=100, train=50_000, test=10_000, size=32),
}
"""The datasets that are the same everywhere."""


@dataclass(frozen=True)
class Work:
    """``tasks`` independent pieces of a stage, each of ``steps`` steps over ``batch`` images."""

    stage: str
    step: Step
    arch: str
    batch: int
    steps: int
    tasks: int = 1
    processes: int = 1
    """Of one task, side by side: the base's replicas."""


def known(spec: DataSpec) -> Facts | None:
    """The facts of a dataset that is the same everywhere; None for any other. Of some classes, counts are shares."""
    found = KNOWN.get(spec.source)
    return found and chosen(found, spec)


def chosen(whole: Facts, spec: DataSpec) -> Facts:
    """The facts that are left of a whole dataset's, as if its classes had equally many images."""
    classes = classes_of(spec) or whole.classes
    train, test = (count * min(classes, whole.classes) // whole.classes for count in (whole.train, whole.test))
    if spec.per_class is not None:
        train = min(train, spec.per_class * classes)
    return replace(whole, classes=classes, train=train, test=test, size=spec.size or whole.size)


def classes_of(spec: DataSpec) -> int | None:
    """How many classes the spec names, or None where it takes all of them."""
    return spec.classes if spec.classes is None or isinstance(spec.classes, int) else len(spec.classes)


def counts(spec: Spec, classes: int) -> dict[str, int]:
    """What is made: images, units, members, students, and the soft labels of the synthetic set."""
    evaluate, images = spec.evaluate, classes * spec.distill.ipc
    label_rows = images * (label_views(spec, classes) + 1) if spec.relabel.store else 0
    return {
        "classes": classes,
        "images": images,
        "units": len(units(classes, spec.distill)),
        "members": members(spec),
        "students": len(evaluate.students) * len(evaluate.regimes) * evaluate.seeds * (1 + len(evaluate.controls)),
        "label_rows": label_rows,
        "label_bytes": label_bytes(spec, classes) if spec.relabel.store else 0,
        "sets": 1 + evaluate.seeds * ("random" in evaluate.controls) + ("coreset" in evaluate.controls),
    }


def label_views(spec: Spec, classes: int) -> int:
    """How many augmented views of each image are labelled: what the spec says, or else what the budget allows. One for
    every epoch of a student where none are stored, and never more."""
    if spec.relabel.views is not None:
        return spec.relabel.views
    affordable = max(LEAST_VIEWS, LABEL_LOGITS // classes) if spec.relabel.store else spec.evaluate.epochs
    return min(spec.evaluate.epochs, affordable)


def label_bytes(spec: Spec, classes: int) -> int:
    """What the soft labels of one set take in the store, compressed, to some percent."""
    part, images = spec.relabel, classes * spec.distill.ipc
    rows, files = images * (label_views(spec, classes) + 1), label_files(spec, classes)
    top_k = None if part.top_k is None or part.top_k >= classes else part.top_k
    share = LABEL_SHARES[part.bits, top_k is not None]
    if part.bits == 16:
        kept = classes if top_k is None else top_k + 1
        share += 0.075 * min(1, max(0, 2 - rows / files * 2 * kept / LABEL_BLOCK))
    row = label_row_bytes(classes, bits=part.bits, top_k=top_k, share=share)
    return round(rows * (row + LABEL_ROW_BYTES) + files * LABEL_FILE_BYTES[part.bits])


def label_row_bytes(classes: int, *, bits: int, top_k: int | None, share: float) -> float:
    """Bytes of an answer's logits, of which compression leaves ``share``: all of them; or the largest, whose first is
    always 0 where fewer than 16 bits are kept, the mean of the others, and which they are."""
    if top_k is None:
        return share * ceil(classes * bits / 8)
    values = ceil((top_k + (bits == 16)) * bits / 8)
    # Numbers of classes are near random: their last 8 bits stay 8, and what is above does not stay small.
    above = max(0.0, log2(classes / 256))
    return share * values + top_k * (min(8, log2(classes) + 0.3) + min(8, 2 * above)) / 8


def label_files(spec: Spec, classes: int) -> int:
    """In how many files the labels of one set are, each a task of relabel."""
    images, views = classes * spec.distill.ipc, label_views(spec, classes) + 1
    at_once = min(views, max(1, LABEL_ROWS_A_TASK // min(images, LABEL_IMAGES_A_TASK)))
    return ceil(images / LABEL_IMAGES_A_TASK) * ceil(views / at_once)


def members(spec: Spec) -> int:
    """How many models the pool has."""
    pool = spec.pool
    return 0 if pool.kind == "none" else len(pool.epochs or ()) or pool.size


def models(spec: Spec, which: str) -> int:
    """How many models "pool", "base" or "both" are."""
    return {"pool": members(spec), "base": 1, "both": members(spec) + 1}[which]


def works(spec: Spec, facts: Facts) -> list[Work]:
    """All that models do in a run, stage by stage. Decoding, encoding, views and the store's time are not in it."""
    return [
        work
        for stage in (_base, _pool, _distill, _relabel, _evaluate)
        for work in stage(spec, facts)
        if work.steps and work.tasks
    ]


def _base(spec: Spec, facts: Facts) -> Iterator[Work]:
    base = spec.base
    if base.checkpoint is not None:
        return
    batches = max(1, facts.train // base.batch_size)
    share = min(base.batch_size, facts.train) // base.replicas
    yield Work("base", "train", base.arch, share, base.epochs * batches, processes=base.replicas)
    scored = facts.test + min(SCORED_IMAGES, facts.train)
    yield Work("base", "look", base.arch, LABEL_BATCH, base.epochs * ceil(scored / LABEL_BATCH))


def _pool(spec: Spec, facts: Facts) -> Iterator[Work]:
    pool, base = spec.pool, spec.base
    if pool.kind != "post":
        return
    batches = max(1, facts.train // base.batch_size)
    # A pruned member is smaller than the base: this is an upper bound.
    batch = min(base.batch_size, facts.train)
    yield Work("pool", "train", base.arch, batch, round(pool.finetune_epochs * batches), pool.size)
    looked = ceil((min(pool.statistics_images, facts.train) + facts.test) / LABEL_BATCH)
    yield Work("pool", "look", base.arch, LABEL_BATCH, looked, pool.size)


def _distill(spec: Spec, facts: Facts) -> Iterator[Work]:
    part, arch = spec.distill, spec.base.arch
    tasks = units(facts.classes, part)
    batch = len(tasks[0].class_slots)
    yield Work("distill", "match", arch, batch, part.iterations * part.models_per_step, len(tasks))
    if part.init == "patches":
        yield Work("distill", "look", arch, part.patch_candidates, batch, len(tasks))
    if part.iterations and part.class_means_weight:
        real = len(tasks[0].classes) * min(CLASS_MEAN_IMAGES, ceil(facts.train / facts.classes))
        steps = ceil(real / LABEL_BATCH) * models(spec, part.match)
        yield Work("distill", "look", arch, LABEL_BATCH, steps, len(tasks))


def _relabel(spec: Spec, facts: Facts) -> Iterator[Work]:
    images, sets = facts.classes * spec.distill.ipc, counts(spec, facts.classes)["sets"]
    tasks = sets * label_files(spec, facts.classes)
    if spec.relabel.store:
        batches = ceil(sets * images * (label_views(spec, facts.classes) + 1) / tasks / LABEL_BATCH)
        steps = batches * models(spec, spec.relabel.labellers)
        yield Work("relabel", "look", spec.base.arch, LABEL_BATCH, steps, tasks)
    if "coreset" in spec.evaluate.controls:  # which is chosen by all models, in one place
        steps = ceil(facts.train / LABEL_BATCH) * (1 + members(spec))
        yield Work("relabel", "look", spec.base.arch, LABEL_BATCH, steps)


def _evaluate(spec: Spec, facts: Facts) -> Iterator[Work]:
    part = spec.evaluate
    images, jobs = facts.classes * spec.distill.ipc, counts(spec, facts.classes)["students"]
    steps = part.epochs * ceil(images / part.batch_size)
    scored = min(part.epochs, CURVE_POINTS) * ceil(facts.test / LABEL_BATCH)
    for arch in part.students:
        tasks = jobs // len(part.students)
        yield Work("evaluate", "train", arch, min(part.batch_size, images), steps, tasks)
        yield Work("evaluate", "look", arch, LABEL_BATCH, scored, tasks)
    if spec.relabel.store:
        return
    labellers = models(spec, spec.relabel.labellers)
    asked = {"views": (min(part.batch_size, images), steps), "fixed": (LABEL_BATCH, ceil(images / LABEL_BATCH))}
    for batch, times in (asked[regime] for regime in part.regimes if regime in asked):
        yield Work("evaluate", "look", spec.base.arch, batch, times * labellers, jobs // len(part.regimes))


def seconds(works: list[Work], cost: Mapping[Any, float], slots: int) -> dict[str, dict[str, float]]:
    """Of each stage: ``busy``, the seconds of all slots that work, and ``wall``, with ``slots`` of them side by side.

    ``cost`` has the seconds of a step by (step, arch, batch). Tasks go in rounds, so the slots beyond the last one's
    tasks stay idle: 20 units on 16 slots take as long as 32.
    """
    found: dict[str, dict[str, float]] = {}
    for work in works:
        stage = found.setdefault(work.stage, {"busy": 0.0, "wall": 0.0})
        one = work.steps * cost[work.step, work.arch, work.batch]
        stage["busy"] += one * work.tasks * work.processes
        stage["wall"] += one * ceil(work.tasks * min(work.processes, slots) / slots)
    return found
