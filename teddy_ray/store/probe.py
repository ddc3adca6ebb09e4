"""Whether a store can be trusted with our commits: of two writers who both write a key if absent, one must lose.

    warning = refuse_unsafe(open_store("s3://bucket/runs"), allow_unsafe=False)
    python -m teddy_ray.store.probe s3://bucket/runs    # what the chart's `helm test` asks from a pod of the namespace

A file system shows that by itself at the first such write. An S3 server may not know the condition, ignore it, and say
yes to both.
"""

from __future__ import annotations

import secrets
import sys

from teddy_ray.errors import UserError, WorldError
from teddy_ray.store import open_store
from teddy_ray.store.base import Store


def refuse_unsafe(store: Store, allow_unsafe: bool) -> str | None:
    """Ask once at the start of a run; it costs four requests, and says early what else is wrong with the store.

    Raises UserError where both writers win; with ``allow_unsafe``, returns a warning instead.
    """
    key = f"probe/{secrets.token_hex(8)}"
    if store.local_path(key) is not None:
        return None
    store.put_if_absent(key, b"first")
    try:
        both_won = store.put_if_absent(key, b"second")
    finally:
        store.delete(key)
    if not both_won:
        return None
    what = f"the server of {store.uri} ignores the condition of a conditional write (If-None-Match)"
    if not allow_unsafe:
        raise UserError(
            f"{what}: of two runs that make the same thing, both would think to have made it, and what is recorded need"
            " not be what is there. Use another server or a folder, or --allow-unsafe-store if no other run ever writes"
            " there at the same time"
        )
    return f"{what}: while another run writes there, records may name files that the other has removed"


def main(arguments: list[str]) -> int:
    """Write to the store of the one argument, say in a sentence how that went, and return the exit code."""
    try:
        if len(arguments) != 1:
            raise UserError("give one store, for example: python -m teddy_ray.store.probe s3://bucket/runs")
        store = open_store(arguments[0])
        if store.local_path("probe") is not None:
            raise UserError(f"{store.uri} is a folder, which has no server to ask: give s3://bucket/prefix")
        refuse_unsafe(store, allow_unsafe=False)
    except (UserError, WorldError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"{store.uri} takes writes, and of two writers who both write a key if absent, one loses\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
