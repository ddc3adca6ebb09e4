"""What makes an artifact is its address: a digest over its part of the spec and its inputs' digests, and nothing else.

Left out on purpose: the number of workers, how often a unit is checkpointed, and, of a unit, the IPC. Put in on
purpose: the kind of device, the precision, how convolutions go, and whether it was compiled, since they change float
sums. ``FORMAT`` is raised when the same inputs come to mean other bytes, because the code has changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from teddy_ray.spec import Spec, digest

FORMAT = 2


def base(spec: Spec, data: str, checkpoint_sha256: str | None) -> str:
    """The base model; ``checkpoint_sha256`` of the state dict that was handed in, if one was."""
    if checkpoint_sha256 is not None:
        return digest("base", FORMAT, data, spec.base.arch, checkpoint_sha256, *_device(spec))
    return digest("base", FORMAT, data, spec.base.model_dump(mode="json"), *_device(spec))


def checkpoint(base: str, epoch: int) -> str:
    """The base after ``epoch`` epochs."""
    return digest("checkpoint", base, epoch)


def pruned_member(spec: Spec, base: str, index: int) -> str:
    """One post member."""
    pool = spec.pool
    how = (pool.pruning_ratio, pool.pruning_noise, pool.finetune_epochs, pool.finetune_lr, pool.statistics_images)
    return digest("member", FORMAT, base, how, index)


def unit(spec: Spec, data: str, models: Sequence[str], name: str, images: Sequence[int], *, compiled: bool) -> str:
    """One unit; ``models`` are the digests of those that it is matched to and started with."""
    part = spec.distill.model_dump(mode="json", exclude={"ipc", "checkpoint_seconds", "match"})
    how = _device(spec, compiled=compiled)
    return digest("unit", FORMAT, data, list(models), part, spec.seed, name, list(images), *how)


def image_set(kind: str, *sources: object) -> str:
    """A published set of images: the distilled units, or a choice of real images."""
    return digest("images", FORMAT, kind, *sources)


def label_shard(
    spec: Spec, images_sha256: str, labellers: Sequence[str], rows: Sequence[int], *, compiled: bool
) -> str:
    """The soft labels of a range of images and a range of views."""
    part = spec.relabel.model_dump(mode="json", exclude={"labellers", "views"})
    how = _device(spec, compiled=compiled)
    return digest("labels", FORMAT, images_sha256, list(labellers), part, spec.seed, list(rows), *how)


def asked_labels(spec: Spec, labellers: Sequence[str]) -> str:
    """Soft labels that are not stored: what a student hears when it asks the labellers."""
    part = spec.relabel.model_dump(mode="json", include={"ensemble", "views", "crop_scale", "mix"})
    return digest("asked", FORMAT, list(labellers), part)


def student(spec: Spec, data: str, images_sha256: str, labels: Sequence[str], job: Sequence[object]) -> str:
    """One student: ``job`` names architecture, regime and seed."""
    how = {"students", "seeds", "regimes", "controls", "coreset_difficulty"}
    part = spec.evaluate.model_dump(mode="json", exclude=how)
    return digest("student", FORMAT, data, images_sha256, list(labels), part, spec.seed, list(job), *_device(spec))


def report(run: str, made: Sequence[str]) -> str:
    """What a run shows of the records that it has ``made``."""
    return digest("report", FORMAT, run, list(made))


def record_key(stage: str, digest: str) -> str:
    """Where the record of an artifact is in the store."""
    return f"artifacts/{stage}/{digest}/record.json"


def resume_key(stage: str, digest: str) -> str:
    """Where the state of an unfinished artifact is, to go on from; removed when its record is there."""
    return f"artifacts/{stage}/{digest}/resume"


def _device(spec: Spec, *, compiled: bool = False) -> tuple[str, ...]:
    compute = spec.compute
    winograd = compute.convolutions == "winograd"
    return (compute.device, compute.precision, *["compiled"] * compiled, *["winograd"] * winograd)
