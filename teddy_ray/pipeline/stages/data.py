"""data: the real dataset, decoded once, as uint8 tensors that every worker maps into memory."""

from __future__ import annotations

import hashlib
import time

import torch

from teddy_ray import data
from teddy_ray.errors import UserError
from teddy_ray.method.pixels import Pixels
from teddy_ray.pipeline.addresses import FORMAT
from teddy_ray.pipeline.context import Context, RealData, Task
from teddy_ray.spec import Spec, digest
from teddy_ray.store import records, tensors


def tasks(spec: Spec) -> list[Task]:
    """One: found by what the files look like from outside, while later stages go by what is in them."""
    return [Task("data", digest("data", FORMAT, data.fingerprint(spec.data)), "decode")]


def work(context: Context, task: Task) -> None:
    """Decode, measure, commit."""
    started = time.monotonic()
    dataset = data.load(context.spec.data)
    flip = dataset.flip if context.spec.data.flip is None else context.spec.data.flip
    pixels = Pixels.of(dataset.train.images)
    file = tensors.to_bytes(
        {
            "train_images": dataset.train.images.contiguous(),
            "train_labels": dataset.train.labels,
            "test_images": dataset.test.images.contiguous(),
            "test_labels": dataset.test.labels,
        }
    )
    meta = {
        "class_names": list(dataset.class_names),
        "flip": flip,
        "skipped": dataset.skipped,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "content": digest(hashlib.sha256(file).hexdigest(), list(dataset.class_names), flip),
        "seconds": time.monotonic() - started,
    }
    records.commit(context.store, "data", task.digest, {"dataset.safetensors": file}, meta)


def refuse_impossible(spec: Spec, real: RealData) -> None:
    """What only the data can tell: an IPC for which a class has too few real images."""
    fewest, class_ = torch.bincount(real.train_labels, minlength=real.classes).min(dim=0)
    wanting = "distill.init = 'real'" if spec.distill.init == "real" else None
    if spec.evaluate.controls:
        wanting = wanting or f"evaluate.controls = {list(spec.evaluate.controls)}"
    if wanting and spec.distill.ipc > fewest:
        raise UserError(
            f"distill.ipc = {spec.distill.ipc} with {wanting} needs as many real images of every class, and class"
            f" '{real.class_names[int(class_)]}' has {int(fewest)}: lower --ipc, or change that setting"
        )
