"""Settings that are each possible, and together are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teddy_ray.errors import UserError

if TYPE_CHECKING:
    from teddy_ray.spec import Spec


def refuse_contradictions(spec: Spec) -> None:
    """Raises UserError for the first pair that does not go together."""
    _refuse_base(spec)
    _refuse_pool(spec)
    _refuse_distill(spec)
    _refuse_relabel(spec)
    _refuse_evaluate(spec)
    _refuse_compute(spec)


def _refuse_base(spec: Spec) -> None:
    base = spec.base
    if base.warmup_epochs > base.epochs:
        raise UserError(f"base.warmup_epochs = {base.warmup_epochs} exceeds base.epochs = {base.epochs}: lower it")
    if base.batch_size % base.replicas:
        raise UserError(
            f"base.batch_size = {base.batch_size} cannot be shared out evenly by base.replicas = {base.replicas}: make"
            " it a multiple"
        )
    if base.batch_size // base.replicas < 2:
        raise UserError(
            f"base.batch_size = {base.batch_size} leaves a replica of {base.replicas} one image, and BatchNorm needs"
            " two: raise it"
        )


def _refuse_pool(spec: Spec) -> None:
    pool, base = spec.pool, spec.base
    if pool.accuracy_band[0] >= pool.accuracy_band[1]:
        raise UserError(f"pool.accuracy_band = {list(pool.accuracy_band)}: the first share must be below the second")
    if pool.kind != "none" and pool.size == 0:
        raise UserError(f"pool.size = 0 leaves pool.kind = '{pool.kind}' without members: set a size of at least 1")
    if pool.kind != "prior":
        return
    if base.checkpoint is not None:
        raise UserError(
            "pool.kind = 'prior' takes early checkpoints of the base's training, and base.checkpoint hands in a"
            " finished model: set pool.kind=post, or leave base.checkpoint out"
        )
    if pool.epochs is not None:
        _refuse_twice("pool.epochs", pool.epochs)
        if max(pool.epochs) > base.epochs:
            raise UserError(
                f"pool.epochs asks for epoch {max(pool.epochs)}, but base.epochs is {base.epochs}: ask for epochs 1 to"
                f" {base.epochs}"
            )
    elif pool.size > base.epochs:
        raise UserError(
            f"pool.size = {pool.size} asks for more checkpoints than base.epochs = {base.epochs} makes: lower the one"
            " or raise the other"
        )


def _refuse_distill(spec: Spec) -> None:
    pool, distill = spec.pool, spec.distill
    for name, choice in (("distill.match", distill.match), ("relabel.labellers", spec.relabel.labellers)):
        if choice != "base" and pool.kind == "none":
            raise UserError(f"{name} = '{choice}' needs a pool, but pool.kind is 'none': set {name}=base or pool.kind")
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


def _refuse_relabel(spec: Spec) -> None:
    relabel = spec.relabel
    if not relabel.store and relabel.top_k is not None:
        raise UserError(
            f"relabel.top_k = {relabel.top_k} says what is kept of stored labels, and relabel.store is false: leave"
            " relabel.top_k out, or set relabel.store=true"
        )


def _refuse_evaluate(spec: Spec) -> None:
    evaluate = spec.evaluate
    _refuse_twice("evaluate.students", evaluate.students)
    _refuse_twice("evaluate.regimes", evaluate.regimes)
    _refuse_twice("evaluate.controls", evaluate.controls)


def _refuse_twice(name: str, values: tuple[object, ...]) -> None:
    if len(set(values)) < len(values):
        raise UserError(f"{name} = {list(values)} names one twice: name each once")


def _refuse_compute(spec: Spec) -> None:
    compute = spec.compute
    if compute.convolutions == "winograd" and compute.device == "cuda":
        raise UserError(
            "compute.convolutions = 'winograd' is for a CPU, and compute.device = 'cuda': set"
            " compute.convolutions=direct, or auto"
        )
