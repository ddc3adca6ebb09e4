"""Soft labels of a pool of 5: ours, with views rendered on the device and one Parquet file, against the reference's
loop with the same 5 models, which crops image by image and pickles a file a batch.

Where the time goes now (torch's profiler, ResNet-18, batch 100, one thread with AMX): convolutions 69 %, the compiled
passes between them 31 %.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import reference_sre2l as reference
import subjects
import torch
from measure import Asked, by_turns, median
from tables import Row
from torch import Tensor, nn

from teddy_ray.method import views
from teddy_ray.method.labels import ensemble
from teddy_ray.method.optimisation import precision, threads
from teddy_ray.method.statistics import frozen
from teddy_ray.store import labels as label_files
from teddy_ray.store.labels import Views

BATCH = 250
"""Ours, as the stage has it."""
POOL = 5


def rows(asked: Asked) -> Iterator[Row]:
    """Images x views a second, in turns."""
    size, count, count_of_views = 64, asked.size(100, 6), asked.size(20 if asked.cuda else 1, 2)
    pool = [subjects.network(asked, size, seed=seed) for seed in range(POOL)]
    images = subjects.pictures(count, size)
    ours, theirs = [frozen(subjects.placed(model, asked)) for model in pool], [deepcopy(model).eval() for model in pool]
    decoded, looks = reference.decoded(images), count * count_of_views
    with tempfile.TemporaryDirectory() as folder, threads(1):
        new = _fresh(Path(folder))

        def their_labels() -> None:
            reference.relabel(
                theirs,
                decoded,
                next(new),
                look=subjects.look(size),
                epochs=count_of_views,
                batch_size=100,
                crop_scale=subjects.SRE2L.crop_scale,
                seed=0,
                device=asked.device,
            )

        found = by_turns(
            lambda: our_labels(asked, ours, images, count_of_views, next(new)),
            their_labels,
            repeats=asked.size(5 if asked.cuda else 3, 2),
            device=asked.device,
        )
    mine, other = (looks / median(part) for part in found)
    yield Row(
        part="relabel",
        name=f"{count} images x {count_of_views} views, 64x64, 5 ResNet-18: images x views a second",
        ratio=mine / other,
        unit="/s",
        ours=mine,
        reference=other,
        at_least=4.0,
        n=len(found.ours),
        threads=1,
        more={"ours": found.ours, "reference": found.reference, "compiled": asked.compiled},
    )


@torch.no_grad()
def our_labels(asked: Asked, pool: list[nn.Module], images: Tensor, count_of_views: int, folder: Path) -> None:
    """What the stage does of a shard: draw, render, ask, write."""
    count, device = len(images), asked.device
    image = torch.arange(count).repeat(count_of_views)
    view = torch.arange(1, count_of_views + 1).repeat_interleave(count)
    images, logits = images.to(device), []
    for image_B, view_B in zip(image.split(BATCH), view.split(BATCH), strict=True):
        own = subjects.geometry(image_B, view_B, count)
        partner = subjects.geometry(own.partner, view_B, count)
        shown, partners = (subjects.PIXELS.normalise(images[of.to(device)]) for of in (image_B, own.partner))
        shown, _ = views.render(shown, partners, own.to(device), partner.to(device))
        with precision(device, bfloat16=subjects.bfloat16(asked)):
            logits.append(ensemble(pool, shown, average="logits", compiled=asked.compiled).cpu())
    drawn = Views(seed=0, crop_scale=subjects.SRE2L.crop_scale, flip=True, mix="cutmix", images=count)
    folder.with_suffix(".parquet").write_bytes(label_files.to_parquet(image, view, torch.cat(logits), views=drawn))


def _fresh(folder: Path) -> Iterator[Path]:
    number = 0
    while True:
        yield folder / f"shard-{number}"
        number += 1
