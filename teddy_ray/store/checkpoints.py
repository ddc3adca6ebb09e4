"""Checkpoints: the state of unfinished work, one object that is replaced whole and removed when the work is committed.

    save(store, key, {"x": x, "iteration": torch.tensor(120)})
    state = load(store, key)        # None where there is none
    remove(store, key)              # the work is committed

An object is the SHA-256 of what follows, as 64 hexadecimal characters, then safetensors. No record names it: whoever
resumes from it, or from nothing, makes the same bytes in the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from teddy_ray.errors import WorldError
from teddy_ray.store import tensors
from teddy_ray.store.base import MissingKeyError, Store

_HEX = 64


def save(store: Store, key: str, state: Mapping[str, Tensor]) -> None:
    """Replace the checkpoint at ``key``."""
    data = tensors.to_bytes(state)
    _there.add((store, key))
    store.put_bytes(key, hashlib.sha256(data).hexdigest().encode() + data)


def load(store: Store, key: str) -> dict[str, Tensor] | None:
    """The state last saved, or None; raises WorldError where its bytes have changed since."""
    try:
        stored = store.get(key)
    except MissingKeyError:
        return None
    _there.add((store, key))
    data = stored[_HEX:]
    if hashlib.sha256(data).hexdigest().encode() != stored[:_HEX]:
        raise WorldError(f"the checkpoint {store.uri}/{key} is damaged: remove it and run the same command again")
    return tensors.from_bytes(data, name=f"{store.uri}/{key}")


def remove(store: Store, key: str) -> None:
    """Remove the checkpoint that this process has saved or loaded, if it has: most work is done before one is due."""
    if (store, key) in _there:
        store.delete(key)
        _there.remove((store, key))


_there: set[tuple[Store, str]] = set()
