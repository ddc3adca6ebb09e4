"""What a user asks for: the options of ``run``, ``plan`` and ``submit`` that make a spec, and the spec they make.

    flags = spec_flags(ipc=10, seed=None)           # a flag that is None was not given
    spec = resolve("teddy", None, flags, ["distill.lr=0.1"])

Values come from the recipe, then the namespace's settings (on a cluster), then the file, the flags, and --set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teddy_ray.errors import UserError

if TYPE_CHECKING:
    from teddy_ray.spec import Spec

DEFAULT_RECIPE = "teddy"
DATA_HELP = "digits, cifar10, cifar100, folder:PATH (an image folder), or the PATH of Parquet; s3:// is a PATH too."

SpecOption = Annotated[
    Path | None, typer.Option("--spec", metavar="FILE.toml", help="Settings of the spec, as TOML.")
]  # fmt: skip
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", metavar="NAME", help=f"The preset to start from; else the file's recipe, else {DEFAULT_RECIPE}."
    ),
]
DataOption = Annotated[str | None, typer.Option("--data", metavar="SOURCE", help=DATA_HELP)]
ClassesOption = Annotated[
    str | None, typer.Option("--classes", metavar="N|NAMES", help="The first N classes, or A,B,C by name.")
]
PerClassOption = Annotated[
    int | None, typer.Option("--per-class", metavar="N", help="At most N training images a class.")
]
IpcOption = Annotated[int | None, typer.Option("--ipc", metavar="N", help="Synthetic images per class.")]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="auto|cpu|cuda", help="Where models run.")]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="The seed of everything random.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the spec; repeatable.")
]
SkipBrokenOption = Annotated[bool, typer.Option("--skip-broken", help="Count unreadable images, and go on.")]

GpusOption = Annotated[
    int | None, typer.Option("--gpus", metavar="N", help="GPUs, each with a worker; 0: CPUs alone, with --workers.")
]
WorkersOption = Annotated[int | None, typer.Option("--workers", metavar="N", help="Workers on CPUs, with --gpus 0.")]
GpusPerNodeOption = Annotated[
    int | None, typer.Option("--gpus-per-node", metavar="N", help="GPUs that a node has; else the namespace's.")
]
GpuTypeOption = Annotated[
    str | None,
    typer.Option("--gpu-type", metavar="PRODUCT", help="As the node label nvidia.com/gpu.product says it."),
]


def spec_flags(
    *,
    data: str | None,
    classes: str | None,
    per_class: int | None,
    ipc: int | None,
    device: str | None,
    seed: int | None,
    skip_broken: bool,
) -> dict[str, Any]:
    """The flags by the names of the spec's fields."""
    return {
        "data.source": data,
        "data.classes": None if classes is None else parse_classes(classes),
        "data.per_class": per_class,
        "data.skip_broken": skip_broken or None,
        "distill.ipc": ipc,
        "compute.device": device,
        "seed": seed,
    }


def parse_classes(text: str) -> int | list[str]:
    """``"10"`` is the first ten classes; ``"cat,dog"``, or ``"7,"``, are names."""
    try:
        return int(text)
    except ValueError:
        return [name.strip() for name in text.split(",") if name.strip()]


def resolve(
    recipe: str | None,
    file: Path | None,
    flags: Mapping[str, Any],
    settings: list[str],
    *,
    namespace: Mapping[str, Any] | None = None,
) -> Spec:
    """The spec that was asked for; flags that are None were not given. Raises UserError."""
    from teddy_ray import spec
    from teddy_ray.spec.overrides import merge, nest

    values = nest(namespace or {})
    merge(values, read_toml(file) if file else {})
    named = values.pop("recipe", DEFAULT_RECIPE)
    if not isinstance(named, str):
        raise UserError(f"{file}: recipe = {named!r} must be a recipe's name; `teddy-cloud recipes` lists them")
    overrides = {key: value for key, value in flags.items() if value is not None}
    for key, value in map(spec.parse_override, settings):
        if key == "recipe":
            raise UserError(f"--set recipe={value} would name one recipe and run another: use --recipe {value}")
        overrides.pop(key, None)  # a dict keeps the place of the first mention, and here the last one counts
        overrides[key] = value
    try:
        return spec.resolve(recipe=recipe or named, file=values, overrides=overrides)
    except UserError as error:
        if not namespace:
            raise
        raise UserError(f"{error} (this namespace's own settings are {', '.join(sorted(namespace))})") from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's values. Raises UserError that names the line."""
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--spec {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOMLDecodeError, or UnicodeDecodeError
        raise UserError(f"--spec {path} is not TOML: {error}") from error
