"""``teddy-cloud plan``: what a run on a cluster would make, take and cost. Nothing is created, there or in the store.

    teddy-cloud plan --ipc 100 --gpus 16
    teddy-cloud plan --data folder:s3://bucket/imagenet --set data.size=224 --gpus 8 --gpu-type H100 --price-gpu-hour 2

With GPUs, the arithmetic of every step is counted, and its speed assumed, which the plan says; on CPUs a step of each
kind is timed on this machine. A namespace's settings are used where there is a cluster; elsewhere the flags say all.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teddy_cloud.asked import (
    ClassesOption,
    DataOption,
    DeviceOption,
    GpusOption,
    GpusPerNodeOption,
    GpuTypeOption,
    IpcOption,
    PerClassOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SkipBrokenOption,
    SpecOption,
    WorkersOption,
    resolve,
    spec_flags,
)
from teddy_cloud.stores import ContextOption, NamespaceOption, find_cluster
from teddy_ray.errors import UserError, WorldError

if TYPE_CHECKING:
    from teddy_cloud.cluster.settings import Settings
    from teddy_ray.pipeline.counts import Facts
    from teddy_ray.spec import Spec

HOUR = 3600.0
NOT_COUNTED = (
    "not in it: starting pods, reading and writing the store, decoding images, the labels' views, and whatever has to"
    " be done twice; what the store has already costs nothing"
)


def plan(
    *,
    spec: SpecOption = None,
    recipe: RecipeOption = None,
    data: DataOption = None,
    classes: ClassesOption = None,
    per_class: PerClassOption = None,
    train_images: Annotated[
        int | None, typer.Option("--train-images", metavar="N", min=1, help="Of data that is not looked at here.")
    ] = None,
    ipc: IpcOption = None,
    gpus: GpusOption = None,
    workers: WorkersOption = None,
    gpus_per_node: GpusPerNodeOption = None,
    gpu_type: GpuTypeOption = None,
    price_gpu_hour: Annotated[
        float | None, typer.Option("--price-gpu-hour", metavar="DOLLARS", help="Of a GPU; else the namespace's.")
    ] = None,
    price_cpu_hour: Annotated[
        float | None, typer.Option("--price-cpu-hour", metavar="DOLLARS", help="Of a CPU core; else the namespace's.")
    ] = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    overrides: SetOption = None,
    skip_broken: SkipBrokenOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Say what a run on a cluster would make, take and cost; create nothing."""
    from teddy_cloud.cluster.possible import slots

    asked_gpus, asked_workers = slots(gpus, workers)
    found, note = _namespace(context, namespace)
    from teddy_cloud.cluster.flags import changed

    settings = changed(
        found,
        {
            "--gpus-per-node": gpus_per_node,
            "--gpu-type": gpu_type,
            "--price-gpu-hour": price_gpu_hour,
            "--price-cpu-hour": price_cpu_hour,
        },
    )
    flags = spec_flags(
        data=data, classes=classes, per_class=per_class, ipc=ipc, device=device, seed=seed, skip_broken=skip_broken
    )
    asked = resolve(recipe, spec, flags, overrides or [], namespace=settings.spec)
    told = _planned(asked, settings, gpus=asked_gpus, workers=asked_workers, train_images=train_images)
    told["notes"] += [note] if note else []
    if as_json:
        typer.echo(json.dumps(told))
    else:
        _print(told)


def _namespace(context: str | None, namespace: str | None) -> tuple[Settings, str]:
    """The namespace's settings; where none was named and none can be had, defaults, and why."""
    from teddy_cloud.cluster.settings import Settings

    try:
        return find_cluster(context, namespace).settings(), ""
    except (UserError, WorldError) as error:
        if context is not None or namespace is not None:
            raise
        unknown = {"store": {"uri": "s3://unknown"}, "image": "unknown"}
        return Settings.model_validate(unknown), f"no settings of a namespace are in it: {error}"


def _planned(asked: Spec, settings: Settings, *, gpus: int, workers: int, train_images: int | None) -> dict[str, Any]:
    """The plan, with the keys that scripts rely on."""
    from teddy_cloud.run import stdout_is_stderr
    from teddy_ray.pipeline.names import run_name

    endpoint = settings.store.public_endpoint or settings.store.endpoint
    if endpoint:
        os.environ.setdefault("AWS_ENDPOINT_URL_S3", endpoint)  # for a look at the data
    with stdout_is_stderr():
        from teddy_ray.pipeline import estimate as estimates
        from teddy_ray.pipeline.counts import works

        facts = estimates.facts_of(asked.data, train_images)
        _refuse_too_few(asked, facts)
        costs, assumed = _costs(asked, settings, works(asked, facts), facts, gpus=gpus)
        told = estimates.estimate(asked, facts, costs, slots=workers)
    busy, wall = (sum(stage[key] for stage in told["stages"].values()) for key in ("busy_seconds", "wall_seconds"))
    return {
        "run": run_name(asked),
        "gpus": gpus,
        "workers": workers,
        "data": vars(facts),
        **told,
        "busy_hours": busy / HOUR,
        "held_hours": wall * workers / HOUR,
        "wall_seconds": wall,
        **_dollars(settings, gpus=gpus, workers=workers, hours=wall / HOUR),
        "notes": [assumed, NOT_COUNTED],
    }


def _refuse_too_few(asked: Spec, facts: Facts) -> None:
    """What a run would refuse once it has the data."""
    needs = [f"evaluate.controls = {list(asked.evaluate.controls)}"] if asked.evaluate.controls else []
    needs += ["distill.init = 'real'"] if asked.distill.init == "real" else []
    a_class = facts.train // facts.classes
    if needs and asked.distill.ipc > a_class:
        raise UserError(
            f"distill.ipc = {asked.distill.ipc} with {needs[0]} needs as many real images of every class, and there are"
            f" about {a_class}: lower --ipc, or change that setting"
        )


def _costs(
    asked: Spec, settings: Settings, todo: list[Any], facts: Facts, *, gpus: int
) -> tuple[dict[Any, float], str]:
    """Seconds of each kind of step, and where they come from."""
    from teddy_cloud.gpus import speed_of
    from teddy_ray.pipeline import estimate as estimates

    if not gpus:
        return estimates.cpu_costs(asked, todo, facts), "a step of each kind was timed just now on this machine's CPU"
    speed = speed_of(settings.worker.gpu_type)
    return estimates.gpu_costs(todo, facts, speed.seconds), speed.told


def _dollars(settings: Settings, *, gpus: int, workers: int, hours: float) -> dict[str, Any]:
    """What all slots cost for as long as the run holds them, busy or not; None where no price is known."""
    from teddy_cloud.cluster.quantities import number

    if gpus:
        price, held = settings.prices.gpu_hour, gpus * hours
    else:
        price, held = settings.prices.cpu_hour, workers * number(settings.worker.cpu) * hours
    return {"price": price or None, "dollars": round(held * price, 2) if price else None}


def _print(told: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    from teddy_ray.report.text import printable

    console = Console(highlight=False)
    for line in heading(told):
        console.print(Text(printable(line)), soft_wrap=True)
    console.print(_table(told))
    for note in (cost(told), *(f"note: {note}" for note in told["notes"])):
        console.print(Text(printable(note)), soft_wrap=True)


def heading(told: dict[str, Any]) -> list[str]:
    """What is made, in lines."""
    from teddy_cloud.show import label_text
    from teddy_ray.report.text import count, size

    makes = told["makes"]
    labels = label_text(makes)
    if makes["label_bytes"]:
        labels += (
            f"; with the controls, {count(makes['sets'], 'set')} of {size(makes['label_bytes'] * makes['sets'])} in all"
        )
    on = count(told["gpus"], "GPU") if told["gpus"] else f"{count(told['workers'], 'worker')} on CPUs"
    return [
        f"{told['run']} on {on}",
        f"  makes   {count(makes['images'], 'image')} of {count(makes['classes'], 'class', 'classes')},"
        f" in {count(makes['units'], 'unit')}",
        f"  labels  {labels}",
        f"  trains  the base, {count(makes['members'], 'member')}, {count(makes['students'], 'student')}",
    ]


def _table(told: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    from teddy_ray.report.text import duration

    unit = "GPU-hours" if told["gpus"] else "Core-hours"
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("Stage", "Tasks", unit, "Wall time"):
        table.add_column(name, justify="left" if name == "Stage" else "right")
    for name, stage in told["stages"].items():
        hours, wall = stage["busy_seconds"] / HOUR, duration(stage["wall_seconds"])
        table.add_row(name, f"{stage['tasks']:,}", f"{hours:,.2f}", wall)
    table.add_row("all", "", f"{told['busy_hours']:,.2f}", duration(told["wall_seconds"]), style="bold")
    return table


def cost(told: dict[str, Any]) -> str:
    """What it costs, in a sentence."""
    from teddy_ray.report.text import count, duration

    slots = count(told["workers"], "GPU" if told["gpus"] else "worker")
    held = f"{slots} for {duration(told['wall_seconds'])}: {told['held_hours']:,.2f} hours, {_share(told)} of them busy"
    if told["dollars"] is None:
        return f"{held}; no price is known: --price-{'gpu' if told['gpus'] else 'cpu'}-hour"
    return f"{held}; ${told['dollars']:,.2f} at ${told['price']:,.2f} an hour{'' if told['gpus'] else ' and core'}"


def _share(told: dict[str, Any]) -> str:
    return f"{told['busy_hours'] / told['held_hours']:.0%}" if told["held_hours"] else "none"
