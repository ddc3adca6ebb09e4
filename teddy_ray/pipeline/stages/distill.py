"""distill: the synthetic images, unit by unit."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from teddy_ray.errors import WorldError
from teddy_ray.method import initial, views
from teddy_ray.method.matching import Loss, Teacher, Weights
from teddy_ray.method.optimisation import precision, threads
from teddy_ray.method.statistics import class_means
from teddy_ray.method.synthesis import Settings, Synthesis
from teddy_ray.method.training import AT_ONCE
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.compiling import compiled
from teddy_ray.pipeline.context import Context, Task
from teddy_ray.pipeline.events import event
from teddy_ray.pipeline.stages.pool import chosen
from teddy_ray.pipeline.units import Unit, units
from teddy_ray.report.sheet import contact_sheet
from teddy_ray.store import checkpoints, records, tensors
from teddy_ray.store.records import Record


class NotFiniteError(WorldError):
    """A unit whose loss is no number any more."""


TRACE_POINTS = 50
CLASS_MEAN_IMAGES = 100
"""Real images of each class whose mean feature stands for the class."""
PREVIEW_SECONDS = 10.0
PREVIEW_IMAGES = 100


def tasks(context: Context, base: Record, pool: Sequence[Record]) -> list[Task]:
    """A task a unit."""
    spec, real = context.spec.distill, context.real
    teachers = chosen(spec.match, base, pool) if spec.iterations else []
    starts = [base] if spec.init == "patches" else []
    made_by = [record.digest for record in (*teachers, *starts)]
    inputs = {"teachers": [(record.stage, record.digest) for record in teachers], "base": base.digest}
    return [
        Task(
            "unit",
            addresses.unit(
                context.spec,
                real.digest,
                made_by,
                unit.name,
                unit.images(real.classes),
                compiled=_compiled(context, unit),
            ),
            unit.name,
            {**inputs, "unit": unit},
        )
        for unit in units(real.classes, spec)
    ]


def work(context: Context, task: Task) -> None:
    """One unit: from its initial images to quantised ones."""
    started = time.monotonic()
    unit: Unit = task.inputs["unit"]
    with threads(context.spec.distill.threads):
        start = _start(context, task, unit)
        if context.spec.distill.iterations:
            try:
                final, trace, seconds = _optimise(context, task, unit, start)
            except NotFiniteError:
                checkpoints.remove(context.store, _checkpoint_key(task))  # whoever went on from there would come here
                raise
        else:
            final, trace, seconds = start.cpu(), [], time.monotonic() - started
    labels = torch.tensor([class_ for class_, _ in unit.class_slots])
    file = tensors.to_bytes({"images": final, "labels": labels})
    meta = {"name": unit.name, "images": len(labels), "trace": trace, "seconds": seconds}
    records.commit(context.store, "unit", task.digest, {"images.safetensors": file}, meta)
    checkpoints.remove(context.store, _checkpoint_key(task))


def show_made(context: Context, task: Task, record: Record) -> None:
    """A picture of a unit that an earlier attempt has made, so that the contact sheet shows that too."""
    _show(context, task, context.tensors(record, "images.safetensors")["images"][:PREVIEW_IMAGES])


def _start(context: Context, task: Task, unit: Unit) -> Tensor:
    """The unit's initial images: uint8 real ones, or normalised noise."""
    spec, real, seed = context.spec.distill, context.real, context.spec.seed
    if spec.init == "noise":
        return initial.noise(torch.tensor(unit.images(real.classes)), real.size, seed=seed).to(context.device)
    if spec.init == "real":
        return real.train_images[initial.random_real(real.train_labels, unit.class_slots, seed=seed)].to(context.device)
    model = context.model(context.record("base", task.inputs["base"]))

    def logits(x: Tensor) -> Tensor:
        with precision(context.device, bfloat16=context.bfloat16):
            return model(x).float()  # type: ignore[no-any-return]

    return initial.real_patches(
        real.train_images,
        real.train_labels,
        unit.class_slots,
        logits=logits,
        pixels=real.pixels,
        device=context.device,
        candidates=spec.patch_candidates,
        crop_scale=spec.patch_scale,
        seed=seed,
    )


def _optimise(context: Context, task: Task, unit: Unit, start: Tensor) -> tuple[Tensor, list[dict[str, float]], float]:
    """Algorithm 1's loop with what surrounds it: checkpoints, the trace, progress, previews. The quantised images."""
    spec, key = context.spec.distill, _checkpoint_key(task)
    synthesis = _synthesis(context, task, unit, start)
    resumed = (checkpoints.load(context.store, key) if task.begun else None) or {}
    trace = resumed.pop("trace", torch.zeros(0, 4, dtype=torch.float64)).tolist()
    before = float(resumed.pop("seconds", torch.tensor(0.0)))
    if resumed:
        synthesis.load_state(resumed)
    started, saved, shown, first = time.monotonic(), time.monotonic(), 0.0, synthesis.iteration
    while synthesis.iteration < spec.iterations:
        iteration = synthesis.iteration
        loss = synthesis.step()
        now = time.monotonic()
        if iteration % max(1, spec.iterations // TRACE_POINTS) == 0 or iteration + 1 == spec.iterations:
            trace.append([iteration, *_finite(loss, task, iteration, spec.lr)])
        if context.due():
            speed = len(start) * (iteration + 1 - first) / (now - started)
            _say(context, task, synthesis, loss, speed)
        if now - shown > PREVIEW_SECONDS:
            shown = now
            _preview(context, task, synthesis)
        if now - saved > spec.checkpoint_seconds:
            saved = now
            extra = {"trace": torch.tensor(trace, dtype=torch.float64), "seconds": torch.tensor(before + now - started)}
            checkpoints.save(context.store, key, synthesis.state() | extra)
    _preview(context, task, synthesis)
    final = context.real.pixels.quantise(synthesis.x.detach()).cpu()
    names = ("iteration", "loss", "statistics", "class")
    return final, [dict(zip(names, point, strict=True)) for point in trace], before + time.monotonic() - started


def _synthesis(context: Context, task: Task, unit: Unit, start: Tensor) -> Synthesis:
    real = context.real
    x = real.pixels.normalise(start) if start.dtype == torch.uint8 else start
    labels = torch.tensor([class_ for class_, _ in unit.class_slots], device=context.device)
    found = [context.record(stage, digest) for stage, digest in task.inputs["teachers"]]
    teachers = [Teacher(context.model(record), x[:2], _class_means(context, unit, record)) for record in found]
    return Synthesis(
        x,
        labels,
        images_B=torch.tensor(unit.images(real.classes)),
        teachers=teachers,
        settings=_settings(context, unit),
        pixels=real.pixels,
        flip=real.flip,
        seed=context.spec.seed,
        unit=unit.name,
    )


def _class_means(context: Context, unit: Unit, record: Record) -> Tensor | None:
    """What the model makes of a sample of real images of the unit's classes, seen through crops like its own ones; kept
    for the next unit of these classes."""
    if not context.spec.distill.class_means_weight:
        return None
    key = record.digest, unit.classes
    if key not in context.class_means:
        context.class_means[key] = _new_class_means(context, unit, context.model(record))
    return context.class_means[key]


def _new_class_means(context: Context, unit: Unit, model: nn.Module) -> Tensor:
    spec, real = context.spec.distill, context.real
    rows = torch.cat([torch.nonzero(real.train_labels == c)[:CLASS_MEAN_IMAGES, 0] for c in unit.classes])

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for part in rows.split(AT_ONCE):
            view = views.draw(
                context.spec.seed,
                part,
                torch.ones_like(part),
                crop_scale=spec.crop_scale,
                flip=real.flip,
                cutmix=False,
                images=len(part),
            )
            images = real.pixels.normalise(real.train_images[part].to(context.device))
            yield views.crop(images, view.to(context.device)), real.train_labels[part].to(context.device)

    with precision(context.device, bfloat16=context.bfloat16):
        return class_means(model, batches(), real.classes)


def _compiled(context: Context, unit: Unit) -> bool:
    spec = context.spec
    images = spec.distill.iterations * spec.distill.models_per_step * len(unit.class_slots)
    return compiled(context, "match", spec.base.arch, images=images)


def _settings(context: Context, unit: Unit) -> Settings:
    spec = context.spec.distill
    return Settings(
        iterations=spec.iterations,
        models_per_step=spec.models_per_step,
        optimizer=spec.optimizer,
        lr=spec.lr,
        betas=spec.betas,
        weights=Weights(
            statistics=spec.statistics_weight,
            classification=spec.class_weight,
            first_layer=spec.first_layer_weight,
            class_means=spec.class_means_weight,
        ),
        crop_scale=spec.crop_scale,
        shared_crop=spec.shared_crop,
        bfloat16=context.bfloat16,
        compiled=_compiled(context, unit),
    )


def _finite(loss: Loss, task: Task, iteration: int, lr: float) -> tuple[float, float, float]:
    """The loss's numbers, or a refusal to go on with ones that are none."""
    numbers = torch.stack(tuple(loss)).double()
    if not torch.isfinite(numbers).all():
        raise NotFiniteError(
            f"the loss of unit {task.name} is {float(loss.total)} at iteration {iteration}: lower distill.lr (now"
            f" {lr:g}) or distill.class_weight; nothing of this unit was kept"
        )
    total, statistics, classification = numbers.tolist()
    return total, statistics, classification


def _say(context: Context, task: Task, synthesis: Synthesis, loss: Loss, speed: float) -> None:
    total, statistics, classification = _finite(loss, task, synthesis.iteration - 1, context.spec.distill.lr)
    context.progress(
        "distill",
        task.name,
        synthesis.iteration,
        context.spec.distill.iterations,
        **{"loss": total, "statistics": statistics, "class": classification, "images_per_second": speed},
    )


def _preview(context: Context, task: Task, synthesis: Synthesis) -> None:
    """A small picture of the unit as it is now; the driver joins them into the contact sheet."""
    _show(context, task, context.real.pixels.quantise(synthesis.x.detach()[:PREVIEW_IMAGES]).cpu())


def _show(context: Context, task: Task, pictures: Tensor) -> None:
    columns = min(len(pictures), len(task.inputs["unit"].classes), 10)
    png = base64.b64encode(contact_sheet(pictures, columns=columns)).decode()
    context.emit(event("preview", "distill", task=task.name, png=png))


def _checkpoint_key(task: Task) -> str:
    return addresses.resume_key("unit", task.digest)
