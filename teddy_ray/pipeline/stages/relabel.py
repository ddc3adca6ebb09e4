"""relabel: the labellers' answer for every view of every image of a set, be it the synthetic one or a control."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from teddy_ray.method import views
from teddy_ray.method.labels import ensemble
from teddy_ray.method.optimisation import precision, threads
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.compiling import compiled
from teddy_ray.pipeline.context import Context, Task
from teddy_ray.pipeline.imagesets import content_of, read
from teddy_ray.pipeline.stages.pool import chosen
from teddy_ray.store import labels as label_files
from teddy_ray.store import records
from teddy_ray.store.records import Record

IMAGES_A_SHARD = 5_000
ROWS_A_SHARD = 20_000
"""Bound what a task holds: 80 MB of logits of 1000 classes."""
BATCH = 250


def tasks(context: Context, images: Record, base: Record, pool: Sequence[Record]) -> list[Task]:
    """A task a shard: a range of images x a range of views, of view 0 (the whole image) and views 1 to V. None where no
    labels are stored."""
    if not context.spec.relabel.store:
        return []
    labellers = chosen(context.spec.relabel.labellers, base, pool)
    made_by, count = [record.digest for record in labellers], images.meta["images"]
    views_a_shard, end = max(1, ROWS_A_SHARD // min(count, IMAGES_A_SHARD)), context.label_views + 1
    shards = product(
        range(0, end, views_a_shard),
        range(0, count, IMAGES_A_SHARD),
    )
    result = []
    for view, image in shards:
        rows = (
            image,
            min(image + IMAGES_A_SHARD, count),
            view,
            min(view + views_a_shard, end),
        )
        result.append(
            Task(
                "labels",
                addresses.label_shard(
                    context.spec, content_of(images), made_by, rows, compiled=_compiled(context, rows, len(made_by))
                ),
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
    pictures, _ = read(context, context.record("images", task.inputs["images"]))
    image = torch.arange(first, last).repeat(last_view - first_view)
    view = torch.arange(first_view, last_view).repeat_interleave(last - first)
    with threads(context.spec.relabel.threads):
        logits = torch.cat(list(_answers(context, task, pictures, image, view)))
    meta = {"name": task.name, "rows": len(image), "first_view": first_view, "seconds": time.monotonic() - started}
    part = context.spec.relabel
    drawn = label_files.Views(
        seed=context.spec.seed,
        crop_scale=part.crop_scale,
        flip=context.real.flip,
        mix=part.mix,
        images=len(pictures),
    )
    file = label_files.to_parquet(image, view, logits, views=drawn, bits=part.bits, top_k=part.top_k)
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


def _compiled(context: Context, rows: tuple[int, int, int, int], labellers: int) -> bool:
    first, last, first_view, last_view = rows
    images = (last - first) * (last_view - first_view) * labellers
    return compiled(context, "look", context.spec.base.arch, images=images)


def _answers(context: Context, task: Task, pictures: Tensor, image: Tensor, view: Tensor) -> Iterator[Tensor]:
    labellers = [context.model(context.record(stage, digest)) for stage, digest in task.inputs["labellers"]]
    device, pictures = context.device, pictures.to(context.device)

    def seen(image: Tensor) -> Tensor:
        return context.real.pixels.normalise(pictures[image.to(device)])

    batches = list(zip(image.split(BATCH), view.split(BATCH), strict=True))
    graph = _compiled(context, task.inputs["rows"], len(labellers))
    for images, view_numbers in context.watched(batches, "relabel", task.name, 0, len(batches)):
        own = geometry(context, images, view_numbers, len(pictures))
        partner = geometry(context, own.partner, view_numbers, len(pictures))
        shown, _ = views.render(seen(images), seen(own.partner), own.to(device), partner.to(device))
        with precision(device, bfloat16=context.bfloat16):
            yield ensemble(labellers, shown, average=context.spec.relabel.ensemble, compiled=graph).cpu()
