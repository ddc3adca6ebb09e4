"""The state of a run on a cluster: a test for each row of the table, and where cluster and store disagree."""

import pytest

from teddy_cloud.cluster.state import EXIT_CODES, Phase, RunState, StoreWord, state_of
from teddy_ray.pipeline.runs import STATES


def rayjob(deployment="", job="", *, queue=False, suspend=False, **status) -> dict:
    labels = {"kueue.x-k8s.io/queue-name": "team"} if queue else {}
    spec = {"backoffLimit": 3, **({"suspend": True} if suspend else {})}
    status |= {"jobDeploymentStatus": deployment, "jobStatus": job}
    return {"metadata": {"name": "a", "labels": labels}, "spec": spec, "status": status}


ROWS = [
    (rayjob(queue=True, suspend=True), Phase.queued, None),
    (rayjob("Initializing", queue=True, suspend=True), Phase.queued, None),
    (rayjob("Suspended", queue=True, suspend=True), Phase.queued, None),
    (rayjob(), Phase.provisioning, None),
    ({"metadata": {"name": "a"}}, Phase.provisioning, None),
    (rayjob("Initializing"), Phase.provisioning, None),
    (rayjob("Waiting"), Phase.provisioning, None),
    (rayjob("Initializing", queue=True), Phase.provisioning, None),
    (rayjob("Running"), Phase.starting, None),
    (rayjob("Running", "PENDING"), Phase.starting, None),
    (rayjob("Running", "RUNNING"), Phase.running, None),
    (rayjob("Running", "RUNNING", queue=True), Phase.running, None),
    (rayjob("Running", "FAILED"), Phase.failed, 1),
    (rayjob("Retrying", "FAILED"), Phase.retrying, None),
    (rayjob("Complete", "SUCCEEDED"), Phase.finished, 0),
    (rayjob("Complete", "STOPPED"), Phase.cancelled, 130),
    (rayjob("Failed", "FAILED"), Phase.failed, 1),
    (rayjob("Failed", "RUNNING"), Phase.failed, 1),
    (rayjob("ValidationFailed"), Phase.invalid, 2),
    (rayjob("Suspending", suspend=True), Phase.paused, None),
    (rayjob("Suspended", suspend=True), Phase.paused, None),
]


@pytest.mark.parametrize(
    ("found", "phase", "code"), ROWS, ids=lambda value: None if isinstance(value, dict) else str(value)
)
def test_what_kuberay_says_is_one_phase_and_one_exit_code(found, phase, code):
    state = state_of(found)
    assert (state.phase, state.phase.exit_code, state.phase.is_terminal) == (phase, code, code is not None)


@pytest.mark.parametrize("found", [row[0] for row in ROWS])
def test_the_stores_manifest_is_success_whatever_the_cluster_says(found):
    state = state_of(found, StoreWord("finished"))
    assert (state.phase, state.phase.exit_code) == (Phase.finished, 0)
    assert bool(state.notes) == (state_of(found).phase is not Phase.finished)


def test_where_they_disagree_both_are_named():
    (note,) = state_of(rayjob("Failed", "FAILED"), StoreWord("finished")).notes
    assert "manifest" in note
    assert "Failed FAILED" in note


@pytest.mark.parametrize("word", sorted(set(STATES) - {"finished"}))
def test_no_manifest_is_no_success_whatever_the_cluster_says(word):
    state = state_of(rayjob("Complete", "SUCCEEDED"), StoreWord(word))
    assert state.phase is Phase.failed
    assert "Complete SUCCEEDED" in state.notes[0]


def test_a_store_that_knows_nothing_yet_changes_nothing():
    assert state_of(rayjob("Running", "RUNNING"), StoreWord("running")) == state_of(rayjob("Running", "RUNNING"), None)


@pytest.mark.parametrize(
    ("word", "code"), [("finished", 0), ("failed", 1), ("stopped", 130), ("unreadable", 1), ("running", None)]
)
def test_when_the_object_is_gone_the_store_decides(word, code):
    state = state_of(None, StoreWord(word, "why"))
    assert (state.phase, state.phase.exit_code, state.message) == (word, code, "why")
    assert bool(state.notes) == (word == "running")


def test_a_run_that_nobody_knows_is_no_success():
    assert state_of(None).phase.exit_code == 1


@pytest.mark.parametrize(
    ("deployment", "failed", "attempt"),
    [
        ("Initializing", 0, 1),
        ("Running", 1, 2),
        ("Retrying", 2, 3),
        ("Failed", 4, 4),
        ("Complete", 1, 2),
        ("Failed", 0, 1),
    ],
)
def test_attempts_are_counted_from_one(deployment, failed, attempt):
    state = state_of(rayjob(deployment, "SUCCEEDED", failed=failed))
    assert (state.attempt, state.attempts) == (attempt, 4)


def test_every_word_of_a_store_is_a_phase_and_every_end_has_a_code():
    assert set(STATES) <= {str(phase) for phase in Phase}
    assert {phase for phase in Phase if phase.is_terminal} == set(EXIT_CODES)
    assert RunState(phase=Phase.paused).phase.exit_code is None
