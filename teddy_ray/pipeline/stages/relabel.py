"""relabel: the labellers' answer for every view of every image of a set, the controls' sets as well."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from teddy_ray.method import initial, views
from teddy_ray.method.labels import ensemble
from teddy_ray.method.optimisation import precision
from teddy_ray.method.training import logits_of
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.context import Context, Task, threads
from teddy_ray.pipeline.stages.distill import chosen, commit_images, content_of, read_images
from teddy_ray.store import labels as label_files
from teddy_ray.store import records
from teddy_ray.store.labels import SoftLabels
from teddy_ray.store.records import Record

IMAGES_A_SHARD = 5_000
ROWS_A_SHARD = 50_000
BATCH = 250


def control_sets(context: Context, models: Sequence[Record]) -> dict[str, Record]:
    """The controls' images, published like the synthetic ones: random real images, drawn anew for each student seed,
    so that their spread has the draw's luck in it; and a coreset by the mean difficulty that ``models`` see."""
    spec = context.spec.evaluate
    sets: dict[str, Record] = {}
    if "random" in spec.controls:
        sets |= {f"random-{seed}": _random(context, seed) for seed in range(spec.seeds)}
    if "coreset" in spec.controls:
        sets["coreset"] = _coreset(context, models)
    return sets


def tasks(context: Context, images: Record, base: Record, pool: Sequence[Record]) -> list[Task]:
    """A task a shard: a range of images x a range of views, of view 0 (the whole image) and views 1 to V."""
    labellers = chosen(context.spec.relabel.labellers, base, pool)
    made_by, count = [record.digest for record in labellers], images.meta["images"]
    views_a_shard = max(1, ROWS_A_SHARD // min(count, IMAGES_A_SHARD))
    shards = product(
        range(0, context.spec.relabel.views + 1, views_a_shard),
        range(0, count, IMAGES_A_SHARD),
    )
    result = []
    for view, image in shards:
        rows = (
            image,
            min(image + IMAGES_A_SHARD, count),
            view,
            min(view + views_a_shard, context.spec.relabel.views + 1),
        )
        result.append(
            Task(
                "labels",
                addresses.label_shard(context.spec, content_of(images), made_by, rows),
                f"{images.meta['name']}-i{image:06d}-v{view:05d}",
                {
                    "images": images.digest,
                    "labellers": [(record.stage, record.digest) for record in labellers],
                    "rows": rows,
                },
            )
        )
    return result


def work(context: Context, task: Task) -> None:
    """One shard, its rows view by view."""
    started = time.monotonic()
    first, last, first_view, last_view = task.inputs["rows"]
    pictures, _ = read_images(context, context.record("images", task.inputs["images"]))
    image = torch.arange(first, last).repeat(last_view - first_view)
    view = torch.arange(first_view, last_view).repeat_interleave(last - first)
    with threads(context.spec.relabel.threads):
        logits = torch.cat(list(_answers(context, task, pictures, image, view)))
    own = geometry(context, image, view, len(pictures))
    rows = SoftLabels(image=image, view=view, logits=logits.to(torch.float16), **vars(own))
    meta = {"name": task.name, "rows": len(image), "seconds": time.monotonic() - started}
    part = context.spec.relabel
    metadata = {"seed": str(context.spec.seed), "average": part.ensemble, "crop_scale": str(part.crop_scale)}
    file = label_files.to_parquet(rows, metadata=metadata)
    records.commit(context.store, "labels", task.digest, {"labels.parquet": file}, meta)


def geometry(context: Context, image: Tensor, view: Tensor, count: int) -> views.Geometry:
    """The views of this run, which are the same whoever asks."""
    part = context.spec.relabel
    return views.draw(
        context.spec.seed,
        image,
        view,
        crop_scale=part.crop_scale,
        flip=context.real.flip,
        cutmix=part.mix == "cutmix",
        images=count,
    )


def _answers(context: Context, task: Task, pictures: Tensor, image: Tensor, view: Tensor) -> Iterator[Tensor]:
    labellers = [context.model(context.record(stage, digest)) for stage, digest in task.inputs["labellers"]]
    normalised = context.real.pixels.normalise(pictures.to(context.device))
    batches = list(zip(image.split(BATCH), view.split(BATCH), strict=True))
    for images, view_numbers in context.watched(batches, "relabel", task.name, 0, len(batches)):
        own = geometry(context, images, view_numbers, len(pictures))
        partner = geometry(context, own.partner, view_numbers, len(pictures))
        device = context.device
        shown, _ = views.render(normalised, images.to(device), own.to(device), partner.to(device))
        with precision(device, bfloat16=context.bfloat16):
            yield ensemble(labellers, shown, average=context.spec.relabel.ensemble).cpu()


def _random(context: Context, seed: int) -> Record:
    real, ipc = context.real, context.spec.distill.ipc
    digest = addresses.image_set("random", real.digest, context.spec.seed, seed, ipc)
    # Apart from distill.init = "real", which draws with the run's own seed: a control must not be the set itself.
    rows = initial.random_real(real.train_labels, _class_slots(context), seed=context.spec.seed + 1 + seed)
    return _found(context, digest) or commit_images(
        context, digest, f"random-{seed}", real.train_images[rows], real.train_labels[rows]
    )


def _coreset(context: Context, models: Sequence[Record]) -> Record:
    real, ipc, quantile = context.real, context.spec.distill.ipc, context.spec.evaluate.coreset_difficulty
    digest = addresses.image_set("coreset", real.digest, [record.digest for record in models], quantile, ipc)
    found = _found(context, digest)
    if found is not None:
        return found
    started = time.monotonic()
    rows = initial.coreset(_difficulty(context, models), real.train_labels, ipc=ipc, quantile=quantile)
    seconds = time.monotonic() - started
    return commit_images(context, digest, "coreset", real.train_images[rows], real.train_labels[rows], seconds=seconds)


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


def _found(context: Context, digest: str) -> Record | None:
    return records.find(context.store, "images", digest)
