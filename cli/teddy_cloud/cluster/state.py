"""What a run on a cluster is doing: one table over KubeRay's status and the store's word; pure.

    state = state_of(rayjob, StoreWord("finished"))
    state.phase, state.phase.exit_code, state.notes

| deployment                | job            | store    | phase        | exit |
|---------------------------|----------------|----------|--------------|------|
| any                       | any            | finished | finished     | 0    |
| none, Initializing, Suspended; suspended in a Kueue queue | | queued       |      |
| none, Initializing, Waiting                    |   |     | provisioning |      |
| Running                   | none, PENDING  |          | starting     |      |
| Running                   | RUNNING        |          | running      |      |
| Running                   | ended          |          | its end's    |      |
| Retrying                  | any            |          | retrying     |      |
| Complete                  | SUCCEEDED      | unknown  | finished     | 0    |
| Complete                  | SUCCEEDED      | other    | failed       | 1    |
| Complete                  | STOPPED        |          | cancelled    | 130  |
| Failed                    | any            |          | failed       | 1    |
| ValidationFailed          | any            |          | invalid      | 2    |
| Suspending, Suspended     | any            |          | paused       |      |
| the object is gone        |                | any      | the store's  |      |

The words are those of the runs of a store, and more where a cluster has more. Success is the manifest in the store,
whatever the cluster says; where the two disagree, a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


class Phase(StrEnum):
    """What a run does now. Those with an exit code have ended."""

    queued = "queued"
    provisioning = "provisioning"
    starting = "starting"
    running = "running"
    retrying = "retrying"
    paused = "paused"
    finished = "finished"
    cancelled = "cancelled"
    stopped = "stopped"
    failed = "failed"
    invalid = "invalid"
    unreadable = "unreadable"

    @property
    def exit_code(self) -> int | None:
        """What `--wait` ends with: 0 finished, 1 failed, 2 invalid, 130 cancelled or stopped; None goes on."""
        return EXIT_CODES.get(self)

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended; a paused one has not."""
        return self in EXIT_CODES


EXIT_CODES = {
    Phase.finished: 0,
    Phase.failed: 1,
    Phase.unreadable: 1,
    Phase.invalid: 2,
    Phase.cancelled: 130,
    Phase.stopped: 130,
}

WAITING = (Phase.queued, Phase.provisioning, Phase.starting, Phase.retrying)
"""Phases in which a user asks why nothing happens yet."""


@dataclass(frozen=True)
class StoreWord:
    """What the store says of a run: one of teddy_ray.pipeline.runs.STATES, and a message."""

    state: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run's state. ``attempt`` counts Ray clusters from 1; ``notes`` are for a person: what disagrees."""

    phase: Phase
    reason: str = ""
    message: str = ""
    attempt: int = 1
    attempts: int = 1
    notes: tuple[str, ...] = ()


def state_of(rayjob: Mapping[str, Any] | None, store: StoreWord | None = None) -> RunState:
    """The state of a run. ``store`` is None where the store does not know the run, or could not be read."""
    if rayjob is None:
        return _gone(store)
    status = rayjob.get("status") or {}
    spec = rayjob.get("spec") or {}
    deployment, job = status.get("jobDeploymentStatus") or "", status.get("jobStatus") or ""
    phase = _phase(deployment, job, _is_queued(rayjob))
    notes: tuple[str, ...] = ()
    if store is not None:
        phase, notes = _settled(phase, store, said=" ".join(word for word in (deployment, job) if word))
    attempts = int(spec.get("backoffLimit") or 0) + 1
    failed = int(status.get("failed") or 0)
    return RunState(
        phase=phase,
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        # KubeRay counts failed attempts; a run that has failed for good did so in the last of them.
        attempt=max(1, min(failed if deployment == "Failed" else failed + 1, attempts)),
        attempts=attempts,
        notes=notes,
    )


def _phase(deployment: str, job: str, queued: bool) -> Phase:
    if queued and deployment in ("", "Initializing", "Suspending", "Suspended"):
        return Phase.queued
    if deployment == "Complete" or (deployment == "Running" and job in ENDS):
        return ENDS.get(job, Phase.failed)
    if deployment == "Running":
        return Phase.running if job == "RUNNING" else Phase.starting
    return DEPLOYMENTS.get(deployment, Phase.provisioning)


ENDS = {"SUCCEEDED": Phase.finished, "STOPPED": Phase.cancelled, "FAILED": Phase.failed}
DEPLOYMENTS = {
    "Retrying": Phase.retrying,
    "Failed": Phase.failed,
    "ValidationFailed": Phase.invalid,
    "Suspending": Phase.paused,
    "Suspended": Phase.paused,
}


def _is_queued(rayjob: Mapping[str, Any]) -> bool:
    """Whether Kueue holds it back: it suspends what it has not admitted."""
    labels = (rayjob.get("metadata") or {}).get("labels") or {}
    return bool(labels.get(QUEUE_LABEL)) and bool((rayjob.get("spec") or {}).get("suspend"))


def _settled(phase: Phase, store: StoreWord, *, said: str) -> tuple[Phase, tuple[str, ...]]:
    """The phase after the store was heard, and what to say where the two disagree."""
    if store.state == "finished" and phase is not Phase.finished:
        return Phase.finished, (
            f"the store has the run's manifest, so it is finished; the cluster says {said or 'nothing'}",
        )
    if phase is Phase.finished and store.state != "finished":
        return Phase.failed, (f"the cluster says {said}, but the store has no manifest of the run: it is not finished",)
    return phase, ()


def _gone(store: StoreWord | None) -> RunState:
    if store is None:
        return RunState(phase=Phase.unreadable, message="neither the cluster nor the store has this run")
    phase = Phase(store.state)
    note = "it has no RayJob here, yet wrote to the store just now: it runs elsewhere, or was deleted a moment ago"
    return RunState(phase=phase, message=store.message, notes=(note,) if phase is Phase.running else ())
