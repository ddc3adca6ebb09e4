"""JSON that tells when a bit of it has changed: an object with the SHA-256 of all that is in it beside it.

opened(seal({"files": {}}))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_SEAL = "sha256"


def seal(values: Mapping[str, Any]) -> bytes:
    """The same bytes for equal values, which must have no ``sha256`` of their own."""
    return _text({**values, _SEAL: hashlib.sha256(_text(values)).hexdigest()})


def opened(data: bytes) -> dict[str, Any]:
    """What was sealed; ValueError where a byte has changed since, or it never was."""
    values = json.loads(data)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - whoever reads it expects one kind of error
    values.pop(_SEAL, None)
    if data != seal(values):  # the bytes, not the values: two spellings of a float's 17th digit are one number
        raise ValueError("its SHA-256 is another")
    return values


def _text(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1, sort_keys=True, allow_nan=False).encode()
