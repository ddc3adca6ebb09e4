"""What a run on a cluster makes, takes and costs, before it is made.

costs = gpu_costs(works, facts, lambda flops: flops / 60e12)
estimate(spec, facts, costs, slots=16)["stages"]["distill"]["wall_seconds"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from teddy_ray import data
from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline.counts import Facts, Work, chosen, classes_of, counts, known, seconds, works
from teddy_ray.spec import DataSpec, Spec

TEST_FOLDERS = ("val", "validation", "test")


def estimate(spec: Spec, facts: Facts, costs: Mapping[Any, float], *, slots: int) -> dict[str, Any]:
    """Counts, and of each stage the tasks, the seconds that slots work, and the seconds that pass."""
    todo = works(spec, facts)
    stages = {
        stage: {
            "tasks": sum(work.tasks * work.processes for work in todo if work.stage == stage and work.step != "look")
            or sum(work.tasks for work in todo if work.stage == stage),
            "busy_seconds": both["busy"],
            "wall_seconds": both["wall"],
        }
        for stage, both in seconds(todo, costs, slots).items()
    }
    return {"makes": counts(spec, facts.classes), "stages": stages}


def gpu_costs(todo: list[Work], facts: Facts, step_seconds: Callable[[float], float]) -> dict[Any, float]:
    """Seconds of each kind of step, by its arithmetic and a GPU's speed."""
    from teddy_ray.pipeline.flops import flops

    return {
        (work.step, work.arch, work.batch): step_seconds(
            work.batch * flops(work.step, work.arch, classes=facts.classes, size=facts.size)
        )
        for work in todo
    }


def cpu_costs(spec: Spec, todo: list[Work], facts: Facts) -> dict[Any, float]:
    """Seconds of each kind of step on a core of this machine, timed now."""
    from teddy_ray.pipeline.timing import step_seconds

    return dict(step_seconds(on_cpu(spec), todo, facts))


def on_cpu(spec: Spec) -> Spec:
    """The spec as a CPU carries it out."""
    from teddy_ray.pipeline.settle import convolutions_on, precision_on

    precision = precision_on("cpu", spec.compute)
    convolutions = convolutions_on("cpu", precision, spec.compute)
    compute = spec.compute.model_copy(update={"device": "cpu", "precision": precision, "convolutions": convolutions})
    return spec.model_copy(update={"compute": compute})


def facts_of(spec: DataSpec, train_images: int | None) -> Facts:
    """What is known of the data, from the dataset's name, what was said, or a look at it. Raises UserError."""
    found = known(spec)
    if found is not None:
        return found
    if train_images is not None:
        classes = classes_of(spec)
        if classes is None or spec.size is None:
            raise UserError(
                "--train-images needs --classes N and --set data.size=PIXELS beside it, to plan unseen data"
            )
        return Facts(classes, train_images, 0, spec.size)
    return _listed(spec) if spec.source.startswith("folder:s3://") else _loaded(spec)


def _listed(spec: DataSpec) -> Facts:
    """An image folder in S3 by the names of its files; nothing is downloaded."""
    from teddy_ray.data.folder import SUFFIXES
    from teddy_ray.store import mirror

    if spec.size is None:
        raise UserError(f"the images of {spec.source} are not looked into here: say their size, --set data.size=PIXELS")
    try:
        names = [file.name.split("/") for file in mirror.files(spec.source.removeprefix("folder:"), SUFFIXES)]
    except (UserError, WorldError) as error:
        raise type(error)(f"{error}; or say what there is: --classes N --train-images N") from error
    roots = {parts[0] for parts in names}
    tests = [name for name in TEST_FOLDERS if name in roots][:1] if "train" in roots else []
    train = [parts for parts in names if parts[0] == "train"] if "train" in roots else names
    classes = {parts[1 if "train" in roots else 0] for parts in train}
    if len(classes) < 2:
        raise UserError(
            f"{spec.source} has no class folders; an image folder is PATH/train/<class>/… or PATH/<class>/…"
        )
    held_out = len([parts for parts in names if parts[0] in tests]) if tests else len(train) // 5
    return chosen(Facts(len(classes), len(train) - (0 if tests else held_out), held_out, spec.size), spec)


def _loaded(spec: DataSpec) -> Facts:
    """Any other data is read, as a run would."""
    if "s3://" in spec.source:
        raise UserError(
            f"{spec.source} would have to be downloaded to be counted: say what there is, --classes N --train-images N"
            " --set data.size=PIXELS"
        )
    dataset = data.load(spec)
    return Facts(
        len(dataset.class_names), len(dataset.train.labels), len(dataset.test.labels), dataset.train.images.shape[2]
    )
