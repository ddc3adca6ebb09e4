"""The spec: everything that a run is, in one strict object, a part per stage.

    spec = resolve(recipe="teddy-prior", file={}, overrides={"distill.ipc": 10})
    Spec.from_json(spec.to_json()).digest == spec.digest

Values come from the recipe, then a TOML file, then ``--set``; what is impossible is refused by name.
The paper's open choices are fields here; each recipe says where its values are from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from teddy_ray import recipes
from teddy_ray.errors import UserError
from teddy_ray.spec.contradictions import refuse_contradictions
from teddy_ray.spec.explain import explain, field_names, nearest
from teddy_ray.spec.overrides import merge, nest, parse_override
from teddy_ray.spec.parts import (
    BaseSpec,
    ComputeSpec,
    DataSpec,
    DistillSpec,
    EvaluateSpec,
    Part,
    PoolSpec,
    RelabelSpec,
)

__all__ = [
    "BaseSpec",
    "ComputeSpec",
    "DataSpec",
    "DistillSpec",
    "EvaluateSpec",
    "Part",
    "PoolSpec",
    "RelabelSpec",
    "Spec",
    "digest",
    "field_names",
    "nearest",
    "parse_override",
    "resolve",
    "validate",
]


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
    for layer in (recipes.load(recipe), file, nest(overrides)):
        merge(values, layer)
    return validate(values)


def validate(values: Mapping[str, Any]) -> Spec:
    """A Spec from plain values, or a UserError with the field, its value, and what is allowed."""
    try:
        # JSON, not Python, rules: lists become tuples, and yet "3" is not an int.
        spec = Spec.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(explain(error, Spec)) from error
    refuse_contradictions(spec)
    return spec
