"""A refusal in one sentence: the field, its value, what is allowed, and the nearest right name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

from teddy_ray.spec.parts import Part


def field_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
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


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first refusal as one sentence; pydantic's own list would name internals of the union types."""
    refusals = error.errors(include_url=False)
    names = list(field_names(model))
    where = _field(refusals[0]["loc"], names)
    if refusals[0]["type"] == "extra_forbidden":
        hint = nearest(where, [*names, *model.model_fields])
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
