"""The spec's parts, one a stage: every setting with its type, its range and its meaning.

Defaults are our choice; a recipe says where the values that it sets are from.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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
    """``digits``, ``cifar10``, ``cifar100``, ``folder:PATH`` (an image folder), or the PATH of Parquet; a PATH may be
    ``s3://bucket/path``."""
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
    epochs: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
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
    patch_scale: Share = 0.5
    """patches: a crop takes at least this share of a real image's area; 1 takes whole images."""
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
    views: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Augmented views of an image before they come round again. Absent: as many as hold 400 logits, at least 10; as
    many as a student has epochs, where none are stored; never more than that."""
    crop_scale: Share = 0.5
    mix: Literal["none", "cutmix"] = "cutmix"
    store: bool = True
    """False: no labels are stored; students ask the labellers about every view, at a labeller's forward pass each."""
    top_k: Count | None = None
    """Of each stored answer, the classes that are kept, the largest first; the others share their mean. Absent, or as
    many as there are classes or more: all."""
    bits: Literal[4, 8, 16] = 16
    """Of each stored logit: 16 are float16, fewer are steps below the answer's largest."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class EvaluateSpec(Part):
    """Students trained on the synthetic set and, with everything else equal, on its controls."""

    students: Annotated[tuple[Architecture, ...], Field(min_length=1)] = ("convnet",)
    seeds: Annotated[int, Field(ge=1, le=1000)] = 2
    epochs: Count = 300
    batch_size: Annotated[int, Field(ge=3)] = 50
    """At least 3: an epoch's images are dealt out evenly, and BatchNorm needs two in every batch."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Rate = 1e-3
    weight_decay: Decay = 0.01
    lr_end: Unit01 = 0.0
    """The cosine schedule's last learning rate, as a share of the first (0: to zero; 0.5: the smoothed schedule)."""
    temperature: Rate = 4.0
    mirror_repeats: bool = False
    """Views that come round again are mirrored every second time, where images may be mirrored at all."""
    regimes: Annotated[tuple[Regime, ...], Field(min_length=1)] = ("views", "fixed", "hard")
    controls: tuple[Control, ...] = ("random", "coreset")
    coreset_difficulty: Unit01 = 0.25
    """The coreset's images stand around this quantile of their class's difficulty (0: the easiest)."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class ComputeSpec(Part):
    """Where the work runs. ``executor`` and ``workers`` cannot change bytes, and are in no digest; the others can."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the device has its instructions."""
    compile: Literal["auto", "large", "always", "never"] = "auto"
    """Which work goes through torch.compile: what is large enough to win back the time that compiling takes, all of it,
    or none. auto: large, where torch.compile finds what it needs (a C++ compiler), else never."""
    convolutions: Literal["auto", "direct", "winograd"] = "auto"
    """How 3x3 convolutions are computed: torch's way, or by Winograd's filtering with a quarter of the multiplications,
    on a CPU; of bfloat16, that is off by 1 % of a result's deviation, in place of 0.2 %. auto: winograd on a CPU, where
    a C++ compiler is, unless AMX computes in bfloat16."""
    executor: Literal["auto", "inline", "ray"] = "auto"
    """auto: inline for one worker or where Ray is not installed, else a local Ray."""
    workers: Annotated[int, Field(ge=0, le=100_000)] = 1
    """0: one a GPU, or one a CPU core. One worker needs no Ray, whose start costs more than a small run."""
