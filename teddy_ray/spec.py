"""The spec: everything that a run is, in one strict object, a part per stage.

    spec = resolve(recipe="teddy-prior", file={}, overrides={"distill.ipc": 10})
    Spec.from_json(spec.to_json()).digest == spec.digest

Values come from the recipe, then a TOML file, then ``--set``; what is impossible is refused by name.
The paper's open choices are fields here; each recipe says where its values are from.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from teddy_ray import recipes
from teddy_ray.errors import UserError

Architecture = Literal[
    "convnet",
    "resnet18",
    "resnet50",
    "resnet101",
    "densenet121",
    "mobilenet_v2",
    "shufflenet_v2",
    "efficientnet_b0",
]
Labellers = Literal["pool", "base", "both"]
Regime = Literal["views", "fixed", "hard"]
Control = Literal["random", "coreset"]

Count = Annotated[int, Field(ge=1, le=10**9)]
Share = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1e6)]
Decay = Annotated[float, Field(ge=0, le=1)]
Unit01 = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A strict, immutable part of the spec: unknown keys, wrong types and values out of range are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSpec(Part):
    """The real dataset."""

    source: Annotated[str, Field(min_length=1)] = "digits"
    """``digits``, ``cifar10``, ``cifar100``, ``folder:PATH`` (an image folder), or the PATH of Parquet."""
    classes: Count | tuple[str, ...] | None = None
    """The first n classes, or classes by name; all of them if absent."""
    per_class: Count | None = None
    """At most this many training images a class, the first in the dataset's order."""
    size: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Images are resized to size x size; absent: kept, where all have one size."""
    flip: bool | None = None
    """Whether a mirrored image is still of its class; absent: as the source says (no for digits)."""
    skip_broken: bool = False
    """Count images that cannot be read, and go on, instead of refusing the dataset."""


class BaseSpec(Part):
    """The base model and its training on real data."""

    arch: Architecture = "convnet"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The base's own seed, so that runs that differ in ``seed`` share a base and a pool."""
    checkpoint: str | None = None
    """A state dict (safetensors, or a .pt of plain tensors) to take instead of training."""
    epochs: Count = 20
    batch_size: Annotated[int, Field(ge=2)] = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Rate = 0.1
    weight_decay: Decay = 5e-4
    warmup_epochs: Annotated[float, Field(ge=0)] = 2.0
    label_smoothing: Unit01 = 0.1
    crop_scale: Share = 0.5
    """Random resized crops take at least this share of the image's area."""
    replicas: Annotated[int, Field(ge=1, le=1024)] = 1
    """Data-parallel replicas. They change the result, so they belong to the run and not to the cluster."""
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    """CPU threads of a replica: they change float sums, so they are fixed here too."""


class PoolSpec(Part):
    """Weak models made from the base model (Algorithm 1's two branches)."""

    kind: Literal["none", "prior", "post"] = "prior"
    size: Annotated[int, Field(ge=0, le=1000)] = 5
    epochs: tuple[Count, ...] | None = None
    """prior: the checkpoints to take, by epoch. Absent: ``size`` checkpoints spread over ``accuracy_band``."""
    accuracy_band: tuple[Unit01, Unit01] = (0.3, 0.9)
    """prior: members come from the checkpoints whose accuracy, as a share of the base's final one, lies in here."""
    pruning_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """post: the share of every layer's channels that is removed (structural pruning)."""
    pruning_noise: Annotated[float, Field(ge=0, le=10)] = 0.3
    """post: how far each member's channel importance is jittered, so that members differ (0: all prune alike)."""
    finetune_epochs: Annotated[float, Field(ge=0, le=1000)] = 1.0
    finetune_lr: Rate = 0.01
    statistics_images: Annotated[int, Field(ge=0)] = 2000
    """post: real images over which BatchNorm statistics are estimated anew after pruning."""


class DistillSpec(Part):
    """Algorithm 1's loop with Eq. 7."""

    ipc: Count = 1
    match: Labellers = "pool"
    """The models that images are matched to."""
    models_per_step: Count = 1
    """n: models drawn for a step, without replacement."""
    iterations: Annotated[int, Field(ge=0, le=10**7)] = 1000
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: Rate = 0.1
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.9)
    class_weight: Annotated[float, Field(ge=0)] = 1.0
    """u of Eq. 7; SRe2L's r_bn is 1/u."""
    statistics_weight: Annotated[float, Field(ge=0)] = 1.0
    """The weight of Eq. 7's two statistics terms: 1 in the paper, 0 to see what they do."""
    first_layer_weight: Annotated[float, Field(ge=0)] = 1.0
    """The first BatchNorm's weight in the sum over layers: 1 in Eq. 7, 10 in SRe2L's code."""
    class_means_weight: Annotated[float, Field(ge=0)] = 0.0
    """The weight of a term that the paper lacks: how far each class's mean feature is from that of real images."""
    crop_scale: Share = 0.5
    shared_crop: bool = False
    """One crop for the whole batch, as SRe2L's code does, instead of one an image."""
    init: Literal["noise", "real", "patches"] = "patches"
    """Gaussian noise, random real images, or the real patches that the base model finds easiest (RDED)."""
    patch_candidates: Annotated[int, Field(ge=1, le=10_000)] = 30
    """patches: real crops among which the base model chooses, for each synthetic image."""
    unit_images: Count = 50
    """The batch of a unit: as many classes as fit, then as many images of each as fit."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How much work of a unit can be lost; does not change the result."""


class RelabelSpec(Part):
    """Algorithm 1's last line: the labellers' answer for every view."""

    labellers: Labellers = "pool"
    ensemble: Literal["logits", "probs"] = "logits"
    """What is averaged over the labellers."""
    views: Annotated[int, Field(ge=1, le=100_000)] = 100
    crop_scale: Share = 0.5
    mix: Literal["none", "cutmix"] = "cutmix"
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class EvaluateSpec(Part):
    """Students trained on the synthetic set and, with everything else equal, on its controls."""

    students: Annotated[tuple[Architecture, ...], Field(min_length=1)] = ("convnet",)
    seeds: Annotated[int, Field(ge=1, le=1000)] = 2
    epochs: Count = 300
    batch_size: Count = 50
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Rate = 1e-3
    weight_decay: Decay = 0.01
    lr_end: Unit01 = 0.0
    """The cosine schedule's last learning rate, as a share of the first (0: to zero; 0.5: the smoothed schedule)."""
    temperature: Rate = 4.0
    regimes: Annotated[tuple[Regime, ...], Field(min_length=1)] = ("views", "fixed", "hard")
    controls: tuple[Control, ...] = ("random", "coreset")
    coreset_difficulty: Unit01 = 0.25
    """The coreset's images stand around this quantile of their class's difficulty (0: the easiest)."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class ComputeSpec(Part):
    """Where the work runs. ``device`` and ``precision`` can change bytes; the others cannot, and are in no digest."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the device has its instructions."""
    executor: Literal["auto", "inline", "ray"] = "auto"
    """auto: inline for one worker or where Ray is not installed, else a local Ray."""
    workers: Annotated[int, Field(ge=0, le=100_000)] = 1
    """0: one a GPU, or one a CPU core. One worker needs no Ray, whose start costs more than a small run."""


class Spec(Part):
    """A run, whole. ``digest`` names it; two specs with one digest make the same bytes on the same kind of device."""

    recipe: str = "teddy"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataSpec = DataSpec()
    base: BaseSpec = BaseSpec()
    pool: PoolSpec = PoolSpec()
    distill: DistillSpec = DistillSpec()
    relabel: RelabelSpec = RelabelSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    compute: ComputeSpec = ComputeSpec()

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Spec:
        """Raises UserError for anything that is not a possible spec."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"the spec is not JSON: {error}") from error
        return validate(values)

    @property
    def digest(self) -> str:
        values = self.model_dump(mode="json")
        for key in ("executor", "workers"):
            del values["compute"][key]
        del values["distill"]["checkpoint_seconds"]
        return digest(values)


def digest(*parts: Any) -> str:
    """SHA-256 over the canonical JSON of ``parts`` (sorted keys, no spaces), as 64 hexadecimal characters."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def resolve(recipe: str, file: Mapping[str, Any], overrides: Mapping[str, Any]) -> Spec:
    """The spec of ``recipe``, changed by a parsed TOML ``file`` and then by dotted ``overrides``. Raises UserError."""
    values: dict[str, Any] = {"recipe": recipe}
    for layer in (recipes.load(recipe), file, _nest(overrides)):
        _merge(values, layer)
    return validate(values)


def validate(values: Mapping[str, Any]) -> Spec:
    """A Spec from plain values, or a UserError with the field, its value, and what is allowed."""
    try:
        # JSON, not Python, rules: lists become tuples, and yet "3" is not an int.
        spec = Spec.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(_explain(error)) from error
    _refuse_contradictions(spec)
    return spec


def parse_override(text: str) -> tuple[str, Any]:
    """``"distill.lr=0.1"`` as ``("distill.lr", 0.1)``; values are TOML, and a bare word is a string."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set {text}: expected KEY=VALUE, such as --set distill.iterations=500")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def field_names(model: type[BaseModel] = Spec, prefix: str = "") -> Iterator[str]:
    """Every settable field's dotted name."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Part):
            yield from field_names(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def nearest(word: str, known: Iterator[str] | list[str]) -> str:
    """`` (did you mean 'x'?)`` for the known word nearest to ``word``, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""


def _nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        inner: Any = value
        for name in reversed(key.split(".")):
            inner = {name: inner}
        _merge(nested, inner)
    return nested


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(error: ValidationError) -> str:
    """The first refusal as one sentence; pydantic's own list would name internals of the union types."""
    refusals = error.errors(include_url=False)
    names = list(field_names())
    where = _field(refusals[0]["loc"], names)
    if refusals[0]["type"] == "extra_forbidden":
        hint = nearest(where, [*names, *Spec.model_fields])
        return f"unknown setting '{where}'{hint}; `teddy-cloud run --dry-run` lists every setting"
    # A type with alternatives refuses once for each: what came furthest into the value knows best what it lacks.
    same = [refusal for refusal in refusals if _field(refusal["loc"], names) == where]
    depth = max(len(refusal["loc"]) for refusal in same)
    best = [refusal for refusal in same if len(refusal["loc"]) == depth]
    value = json.dumps(best[0]["input"], default=str)
    if best[0]["type"] == "missing":
        return f"{where} = {value}: should have {len(best[0]['input']) + len(best)} values"
    alternatives = [refusal for refusal in best if refusal is best[0] or refusal["input"] == best[0]["input"]]
    allowed = dict.fromkeys(_plain(refusal["msg"]) for refusal in alternatives)
    return f"{where or 'the spec'} = {value}: {', or '.join(allowed)}"


def _field(location: tuple[int | str, ...], names: list[str]) -> str:
    """The field in a refusal's location, in which a type's alternatives and places in a list go on behind its name."""
    path = [str(part) for part in location if not str(part).startswith(("tuple[", "constrained-", "function-"))]
    return next((".".join(path[:n]) for n in range(len(path), 0, -1) if ".".join(path[:n]) in names), ".".join(path))


_OURS = {
    "a valid array": "a list",
    "an object": "a table of settings",
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid ": "a ",
    "item": "value",
}


def _plain(message: str) -> str:
    """What is allowed, out of pydantic's message and in TOML's words."""
    message = message.partition(" after validation")[0]
    for theirs, ours in _OURS.items():
        message = message.replace(theirs, ours)
    return message[max(message.find("should"), 0) :]


def _refuse_contradictions(spec: Spec) -> None:
    """Settings that are each possible and together are not."""
    pool, base, distill, relabel, evaluate = spec.pool, spec.base, spec.distill, spec.relabel, spec.evaluate
    for name, choice in (("distill.match", distill.match), ("relabel.labellers", relabel.labellers)):
        if choice != "base" and pool.kind == "none":
            raise UserError(f"{name} = '{choice}' needs a pool, but pool.kind is 'none': set {name}=base or pool.kind")
    if pool.kind != "none" and pool.size == 0:
        raise UserError(f"pool.size = 0 leaves pool.kind = '{pool.kind}' without members: set a size of at least 1")
    if pool.kind == "prior" and base.checkpoint is not None:
        raise UserError(
            "pool.kind = 'prior' takes early checkpoints of the base's training, and base.checkpoint hands in a"
            " finished model: set pool.kind=post, or leave base.checkpoint out"
        )
    if pool.kind == "prior" and pool.epochs and max(pool.epochs) > base.epochs:
        raise UserError(
            f"pool.epochs asks for epoch {max(pool.epochs)}, but base.epochs is {base.epochs}: ask for epochs 1 to"
            f" {base.epochs}"
        )
    if pool.kind == "prior" and not pool.epochs and pool.size > base.epochs:
        raise UserError(
            f"pool.size = {pool.size} asks for more checkpoints than base.epochs = {base.epochs} makes: lower the one"
            " or raise the other"
        )
    if pool.accuracy_band[0] >= pool.accuracy_band[1]:
        raise UserError(f"pool.accuracy_band = {list(pool.accuracy_band)}: the first share must be below the second")
    members = len(pool.epochs) if pool.kind == "prior" and pool.epochs else pool.size
    models = {"pool": members, "base": 1, "both": members + 1}[distill.match]
    if distill.models_per_step > models:
        raise UserError(
            f"distill.models_per_step = {distill.models_per_step} exceeds the {models} model(s) that distill.match ="
            f" '{distill.match}' offers: lower it, or raise pool.size"
        )
    if distill.iterations == 0 and distill.init == "noise":
        raise UserError(
            "distill.iterations = 0 publishes the initial images, and distill.init = 'noise' makes them noise: set"
            " distill.init=real, or some iterations"
        )
    if base.warmup_epochs > base.epochs:
        raise UserError(f"base.warmup_epochs = {base.warmup_epochs} exceeds base.epochs = {base.epochs}")
    for name, values in (("evaluate.students", evaluate.students), ("evaluate.regimes", evaluate.regimes)):
        if len(set(values)) < len(values):
            raise UserError(f"{name} = {list(values)} names one twice")
