"""``teddy-cloud drive``: the entrypoint of a run's Ray job. People use `submit`.

The run's address is its only argument. The spec comes in the variable TEDDY_SPEC, and what each worker has, a GPU or a
CPU, in TEDDY_SLOT: neither passes a shell.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from teddy_cloud.stops import stops
from teddy_ray.errors import UserError

if TYPE_CHECKING:
    from teddy_ray.spec import Spec


def drive(
    address: Annotated[str, typer.Argument(metavar="STORE/runs/RUN", help="The run's address in its store.")],
) -> None:
    """Carry a run out on the Ray cluster that this machine is the head of."""
    from teddy_cloud.progress import Lines, Progress
    from teddy_ray.store import open_store
    from teddy_ray.store.probe import refuse_unsafe

    place, marker, name = address.rpartition("/runs/")
    if not (place and marker and name):
        raise UserError(f"{address} is not a run's address: it ends in /runs/NAME")
    spec, gpus = _given()
    with stops() as stop, Progress(Lines()) as progress:
        try:
            store = open_store(place)
            refuse_unsafe(store, allow_unsafe=False)
            from teddy_ray.pipeline import job

            job.run(spec, store, name, gpus=gpus, emit=progress)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            number = stop(interrupt)
            if number is None:
                raise
            raise typer.Exit(128 + number) from None


def _given() -> tuple[Spec, bool]:
    """What the RayJob says in its head's variables."""
    from teddy_ray.spec import Spec

    text, slot = os.environ.get("TEDDY_SPEC", ""), os.environ.get("TEDDY_SLOT", "")
    if not text or slot not in ("GPU", "CPU"):
        raise UserError(
            "TEDDY_SPEC must hold a spec as JSON, and TEDDY_SLOT GPU or CPU: `teddy-cloud submit` makes a RayJob that"
            " sets them"
        )
    return Spec.from_json(text), slot == "GPU"
