"""Sets of images as they are published: the synthetic one, and the real ones that it is measured against.

Labels are made for what is published, and students train on it: everybody reads a set back from here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from teddy_ray.method import initial
from teddy_ray.method.training import logits_of
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.context import Context, Task
from teddy_ray.pipeline.executors import Executor
from teddy_ray.pipeline.units import units
from teddy_ray.spec import digest as digest_of
from teddy_ray.store import images, records
from teddy_ray.store.records import Record

IMAGES_A_FILE = 10_000


def publish(context: Context, units_done: Sequence[Record]) -> Record:
    """The set of all units as Parquet, image by image in the order of their numbers."""
    digest = addresses.image_set("distilled", [record.digest for record in units_done])
    found = records.find(context.store, "images", digest)
    if found is not None:
        return found
    order: dict[int, tuple[Tensor, Tensor]] = {}
    for unit, record in zip(units(context.real.classes, context.spec.distill), units_done, strict=True):
        stored = context.tensors(record, "images.safetensors")
        order |= dict(
            zip(unit.images(context.real.classes), zip(stored["images"], stored["labels"], strict=True), strict=True)
        )
    pictures, labels = zip(*(order[number] for number in sorted(order)), strict=True)
    return _commit(context, digest, "distilled", torch.stack(pictures), torch.stack(labels))


def _commit(
    context: Context, digest: str, name: str, pictures: Tensor, labels: Tensor, *, seconds: float = 0.0
) -> Record:
    """A set of images (uint8 N3HW) as Parquet in the Hugging Face layout; ``seconds``, what choosing them took."""
    count = -(-len(labels) // IMAGES_A_FILE)
    files = {
        f"train-{index:05d}-of-{count:05d}.parquet": images.to_parquet(*part, context.real.class_names)
        for index, part in enumerate(zip(pictures.split(IMAGES_A_FILE), labels.split(IMAGES_A_FILE), strict=True))
    }
    return records.commit(
        context.store, "images", digest, files, {"name": name, "images": len(labels), "seconds": seconds}
    )


def read(context: Context, record: Record) -> tuple[Tensor, Tensor]:
    """What was published, read back: uint8 images (N, 3, H, W) and labels (N,)."""
    parts = [images.from_parquet(records.read(context.store, file))[:2] for _, file in sorted(record.files.items())]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def content_of(*records: Record) -> str:
    """What the records' files are, whatever made them: one file's SHA-256, or that of the list of them."""
    sums = [file.sha256 for record in records for _, file in sorted(record.files.items())]
    return sums[0] if len(sums) == 1 else digest_of(sums)


def control_sets(context: Context, models: Sequence[Record], executor: Executor) -> dict[str, Record]:
    """The controls' images, published like the synthetic ones: random real images, drawn anew for each student seed,
    so that their spread has the draw's luck in it; and a coreset by the mean difficulty that ``models`` see."""
    spec = context.spec.evaluate
    sets: dict[str, Record] = {}
    if "random" in spec.controls:
        sets |= {f"random-{seed}": _random(context, seed) for seed in range(spec.seeds)}
    if "coreset" in spec.controls:
        sets["coreset"] = _coreset(context, models, executor)
    return sets


def _random(context: Context, seed: int) -> Record:
    real, ipc = context.real, context.spec.distill.ipc
    digest = addresses.image_set("random", real.digest, context.spec.seed, seed, ipc)
    # Apart from distill.init = "real", which draws with the run's own seed: a control must not be the set itself.
    rows = initial.random_real(real.train_labels, _class_slots(context), seed=context.spec.seed + 1 + seed)
    return records.find(context.store, "images", digest) or _commit(
        context, digest, f"random-{seed}", real.train_images[rows], real.train_labels[rows]
    )


def _coreset(context: Context, models: Sequence[Record], executor: Executor) -> Record:
    real, ipc, quantile = context.real, context.spec.distill.ipc, context.spec.evaluate.coreset_difficulty
    digest = addresses.image_set("coreset", real.digest, [record.digest for record in models], quantile, ipc)
    if records.find(context.store, "images", digest) is None:
        judges = [(record.stage, record.digest) for record in models]
        executor.once(choose_coreset, Task("images", digest, "coreset", {"models": judges}))
    return context.record("images", digest)


def choose_coreset(context: Context, task: Task) -> None:
    """Ask every model how hard every real image is; commit those around the wanted quantile."""
    real, spec = context.real, context.spec
    started = time.monotonic()
    difficulty = _difficulty(context, [context.record(*model) for model in task.inputs["models"]])
    rows = initial.coreset(
        difficulty, real.train_labels, ipc=spec.distill.ipc, quantile=spec.evaluate.coreset_difficulty
    )
    seconds = time.monotonic() - started
    _commit(context, task.digest, "coreset", real.train_images[rows], real.train_labels[rows], seconds=seconds)


def _difficulty(context: Context, models: Sequence[Record]) -> Tensor:
    """The mean cross-entropy (N,) of every real image under ``models``."""
    real = context.real
    losses = [
        torch.nn.functional.cross_entropy(
            logits_of(
                context.model(record),
                real.train_images,
                pixels=real.pixels,
                bfloat16=context.bfloat16,
                device=context.device,
            ),
            real.train_labels,
            reduction="none",
        )
        for record in models
    ]
    return torch.stack(losses).mean(dim=0)


def _class_slots(context: Context) -> list[tuple[int, int]]:
    return [(class_, slot) for slot in range(context.spec.distill.ipc) for class_ in range(context.real.classes)]
