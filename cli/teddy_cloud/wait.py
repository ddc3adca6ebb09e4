"""Waiting for a run's end, with every change of its phase on standard error.

state = wait_for(cluster, settings, "digits-ipc1-teddy-0a1b2c3d")
state.phase.exit_code
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import typer

from teddy_cloud.cluster.state import RunState, StoreWord, state_of
from teddy_ray.errors import UserError, WorldError

if TYPE_CHECKING:
    from teddy_cloud.cluster.api import Cluster
    from teddy_cloud.cluster.settings import Settings

POLL_SECONDS = 3.0
PATIENCE_SECONDS = 600.0
"""How long the cluster's API may be out of reach before waiting gives up; the run itself does not need us."""


def wait_for(cluster: Cluster, settings: Settings, run: str) -> RunState:
    """The state in which ``run`` has ended. Ctrl-C ends the waiting alone. Raises WorldError where nobody answers."""
    try:
        return _wait(cluster, settings, run)
    except KeyboardInterrupt:
        _say(f"no longer waiting; {run} goes on: teddy-cloud status {run}")
        raise typer.Exit(130) from None


def _wait(cluster: Cluster, settings: Settings, run: str) -> RunState:
    shown, heard = "", time.monotonic()
    while True:
        try:
            state: RunState | None = state_of(cluster.get(run))
        except WorldError as error:
            if time.monotonic() - heard > PATIENCE_SECONDS:
                raise
            state, line = None, f"still waiting: {error}"
        if state is not None:
            heard, line = time.monotonic(), _line(run, state)
        if line != shown:
            _say(line)
            shown = line
        if state is not None and state.phase.is_terminal:
            return _heard_of_the_store(cluster, settings, run, state)
        time.sleep(POLL_SECONDS)


def _line(run: str, state: RunState) -> str:
    attempt = f", attempt {state.attempt} of {state.attempts}" if state.attempt > 1 else ""
    told = ": ".join(filter(None, [state.reason, state.message]))
    return f"{run} is {state.phase}{attempt}{f' ({told})' if told else ''}"


def _heard_of_the_store(cluster: Cluster, settings: Settings, run: str, state: RunState) -> RunState:
    """The store's manifest decides, where the store can be read from here: a cluster may call a finished run failed."""
    if state.phase.exit_code == 0:
        return state
    from teddy_ray.store import open_store

    endpoint = settings.store.public_endpoint or settings.store.endpoint
    if endpoint:
        os.environ.setdefault("AWS_ENDPOINT_URL_S3", endpoint)
    try:
        finished = open_store(settings.store.uri).head(f"runs/{run}/manifest.json") is not None
    except (UserError, WorldError) as error:
        _say(f"the store cannot be asked from here ({error}), so this is the cluster's word alone")
        return state
    if not finished:
        return state
    state = state_of(cluster.get(run), StoreWord("finished"))
    for note in state.notes:
        _say(note)
    return state


def _say(line: str) -> None:
    typer.echo(f"{time.strftime('%H:%M:%S')} {' '.join(line.split())}", err=True)
