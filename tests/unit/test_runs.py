"""Runs as a store knows them: which there are, how far they are, how they differ, and what no run needs."""

import json
import os
import time

import pytest

from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline import comparison, garbage, manifest, runs
from teddy_ray.store import FolderStore, records
from teddy_ray.store.sealed import opened, seal

DAY = 86400.0
START = {"kind": "stage_started", "done": 1, "total": 4}


def age(store, key, seconds):
    """Make a file look as old as this."""
    path = store.root / key
    os.utime(path, (time.time() - seconds,) * 2)


def age_all(store, seconds):
    for path in store.root.rglob("*"):
        if path.is_file():
            age(store, path.relative_to(store.root), seconds)


# --- which run


def test_a_run_is_found_by_its_name_or_a_beginning_that_no_other_has(made_up):
    for run in ("digits-ipc1-a", "digits-ipc1-ab", "cifar10-ipc1-c"):
        made_up.spec(run)
    assert runs.find(made_up.store, "cifar") == "cifar10-ipc1-c"
    assert runs.find(made_up.store, "digits-ipc1-a") == "digits-ipc1-a"


def test_finding_a_run_lists_no_other(made_up, monkeypatch):
    for run in ("digits-ipc1-a", "digits-ipc2-b", "cifar10-ipc1-c"):
        made_up.finished(run)
    asked, listed = [], FolderStore.list
    monkeypatch.setattr(FolderStore, "list", lambda store, prefix: asked.append(prefix) or listed(store, prefix))
    assert runs.find(made_up.store, "digits-ipc2") == "digits-ipc2-b"
    assert runs.status(made_up.store, "digits-ipc2-b").state == "finished"
    assert asked == ["runs/digits-ipc2", "runs/digits-ipc2-b/"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("digits", "begins the names of 2 runs"),
        ("digits-ipc1-a, x", "the nearest names are digits-ipc1-a, digits-ipc1-ab"),
        ("cifar", "cifar"),
        ("../artifacts", "there is no run '../artifacts'"),
    ],
)
def test_an_unknown_run_is_refused_with_the_nearest_names(made_up, given, words):
    for run in ("digits-ipc1-a", "digits-ipc1-ab"):
        made_up.spec(run)
    with pytest.raises(UserError, match=words):
        runs.find(made_up.store, given)


def test_an_empty_store_says_so(made_up):
    with pytest.raises(UserError, match="nor any other: is --store the right one"):
        runs.find(made_up.store, "digits")
    assert runs.summaries(made_up.store) == []


def test_what_has_no_spec_is_no_run(made_up):
    made_up.events("ghost")
    made_up.store.put_bytes("runs/readme", b"a file")
    assert runs.listing(made_up.store) == {}


# --- their states


def test_a_finished_run_shows_its_best_score_with_the_strongest_control(made_up):
    made_up.finished("a", files={"labels/x.parquet": b"12345"}, distill__ipc=10)
    (summary,) = runs.summaries(made_up.store)
    assert (summary.state, summary.dataset, summary.ipc, summary.recipe) == ("finished", "digits", 10, "teddy")
    best = summary.best
    assert (best.accuracy, best.spread, best.regime, best.student) == (84.0, 0.5, "views", "convnet")
    assert (best.control, best.control_accuracy) == ("coreset", 80.0)
    assert runs.status(made_up.store, "a").state == "finished"
    assert summary.bytes == 5 + made_up.store.head("runs/a/results.json").size


def test_a_score_without_controls_has_none(made_up):
    assert runs.best([]) is None
    made_up.finished(
        "a", scores=[{"set": "distilled", "student": "s", "regime": "hard", "accuracy": 1.0, "spread": None}]
    )
    (summary,) = runs.summaries(made_up.store)
    assert summary.best.control is None


@pytest.mark.parametrize(
    ("last", "silent", "state"),
    [
        ({"kind": "alive"}, 0, "running"),
        ({"kind": "alive"}, runs.SILENT_SECONDS + 1, "stopped"),
        ({"kind": "ended", "outcome": "failed", "message": "disk full"}, 0, "failed"),
        ({"kind": "ended", "outcome": "failed", "message": "disk full"}, DAY, "failed"),
        ({"kind": "ended", "outcome": "stopped", "message": "by Ctrl-C"}, 0, "stopped"),
    ],
)
def test_an_unfinished_run_is_what_its_last_event_says(made_up, last, silent, state):
    made_up.spec("a")
    made_up.events("a", START, last)
    age_all(made_up.store, silent)
    (summary,) = runs.summaries(made_up.store)
    status = runs.status(made_up.store, "a")
    assert (summary.state, status.state) == (state, state)
    assert summary.message == status.message == last.get("message", "")


def test_a_new_attempt_makes_a_failed_run_a_running_one(made_up):
    made_up.spec("a")
    made_up.events("a", {"kind": "ended", "outcome": "failed", "message": "x"})
    made_up.events("a", START, attempt=2)
    found = runs.status(made_up.store, "a")
    assert found.state == "running"
    assert [(attempt.number, attempt.outcome) for attempt in found.attempts] == [(1, "failed"), (2, "")]


def test_a_run_that_has_said_nothing_yet_is_running(made_up):
    made_up.spec("a")
    found = runs.status(made_up.store, "a")
    assert (found.state, found.attempts, [stage.total for stage in found.stages]) == ("running", [], [None] * 7)


def test_one_damaged_run_does_not_hide_the_others(made_up):
    for run in "abcd":
        made_up.finished(run)
    made_up.store.put_bytes("runs/a/spec.json", b"not JSON")
    made_up.store.put_bytes("runs/b/results.json", b"other bytes")
    made_up.store.put_bytes("runs/c/manifest.json", b'{"format": 2}')
    found = {summary.run: (summary.state, summary.message) for summary in runs.summaries(made_up.store)}
    assert {run: state for run, (state, _) in found.items()} == {
        "a": "unreadable", "b": "unreadable", "c": "unreadable", "d": "finished",
    }  # fmt: skip
    for run, file in (("a", "spec.json"), ("b", "results.json"), ("c", "manifest.json")):
        assert f"runs/{run}/{file}" in found[run][1]


@pytest.mark.parametrize("line", [b"not JSON", b"[]", b"{}", b"\xff", b""])
def test_events_that_are_none_are_named(made_up, line):
    made_up.spec("a")
    made_up.events("a", START)
    made_up.store.put_bytes("runs/a/events/0001/000000.jsonl", line)
    with pytest.raises(WorldError, match=r"runs/a/events/0001/000000\.jsonl is damaged or not ours"):
        runs.status(made_up.store, "a")


# --- how far


def test_stages_count_their_tasks_and_say_how_long_still(made_up):
    now = time.time()
    made_up.spec("a")
    made_up.events(
        "a",
        {**START, "stage": "base", "done": 2, "total": 2},
        {"kind": "stage_done", "stage": "base", "values": {"seconds": 0.1}},
        {**START, "time": now - 20},
        {"kind": "progress", "task": "u", "done": 0, "total": 10, "values": {"loss": 2.0}, "time": now - 20},
    )
    made_up.events(
        "a",
        {"kind": "task_done", "task": "t", "time": now},
        {"kind": "progress", "task": "u", "done": 5, "total": 10, "values": {"loss": 1.0}, "time": now},
        number=1,
    )
    stages = {stage.stage: stage for stage in runs.status(made_up.store, "a").stages}
    assert list(stages) == ["data", "base", "pool", "distill", "relabel", "evaluate", "report"]
    assert (stages["base"].done, stages["base"].reused, stages["base"].seconds) == (2, 2, 0.1)
    distill = stages["distill"]
    assert (distill.done, distill.total, distill.share, distill.numbers) == (2, 4, 0.625, {"loss": 1.0})
    assert distill.left == pytest.approx(20.0, abs=2.0)  # one and a half tasks took 20 s, as many are left
    assert stages["relabel"].total is None


def test_a_stopped_run_promises_nothing(made_up):
    made_up.spec("a")
    step = {"kind": "progress", "task": "u", "total": 10, "values": {}}
    made_up.events("a", START, {**step, "done": 1}, {**step, "done": 2, "time": 1001.0})
    age_all(made_up.store, DAY)
    assert [stage.left for stage in runs.status(made_up.store, "a").stages] == [None] * 7


def test_who_asks_again_reads_only_what_is_new(made_up, monkeypatch):
    made_up.spec("a")
    made_up.events("a", START)
    known = {}
    runs.status(made_up.store, "a", known=known)
    read, get = [], type(made_up.store).get
    monkeypatch.setattr(type(made_up.store), "get", lambda store, key: (read.append(key), get(store, key))[1])
    made_up.events("a", {"kind": "task_done", "task": "t"}, number=1)
    found = runs.status(made_up.store, "a", known=known)
    assert sorted(read) == ["runs/a/events/0001/000001.jsonl", "runs/a/spec.json"]
    assert next(stage.done for stage in found.stages if stage.stage == "distill") == 2


# --- manifests


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "a b", ""])
def test_a_manifest_does_not_lead_elsewhere(made_up, name):
    made_up.finished("a")
    values = opened(made_up.store.get("runs/a/manifest.json"))
    for change in ({"files": {**values["files"], name: values["files"]["results.json"]}}, {"records": [name]}):
        made_up.store.put_bytes("runs/a/manifest.json", seal({**values, **change}))
        with pytest.raises(WorldError, match=r"the manifest .*runs/a/manifest\.json is damaged.*bad key"):
            manifest.load(made_up.store, "a")


def test_a_manifest_in_another_runs_place_is_refused(made_up):
    made_up.finished("a")
    made_up.store.put_bytes("runs/b/manifest.json", made_up.store.get("runs/a/manifest.json"))
    with pytest.raises(WorldError, match="it is that of a"):
        manifest.load(made_up.store, "b")


# --- side by side


def test_a_comparison_shows_what_differs_and_aligns_scores(made_up):
    made_up.finished("a")
    made_up.finished("b", distill__ipc=10, seed=1, scores=[])
    made_up.spec("c")
    found = comparison.compare(made_up.store, ["b", "a", "c"])
    assert found.settings == {"seed": [1, 0, 0], "distill.ipc": [10, 1, 1]}
    assert found.finished == [True, True, False]
    first = found.scores[0]
    assert (first.student, first.regime, first.set) == ("convnet", "views", "distilled")
    assert [cell and cell.accuracy for cell in first.scores] == [None, 84.0, None]
    assert first.scores[1].seeds == 2


# --- what no run needs


def keys(entries):
    return {entry.key for entry in entries}


def test_garbage_is_what_nobody_names_and_is_old(made_up):
    kept = made_up.artifact("unit", "a" * 64, x=b"kept")
    mine = made_up.artifact("unit", "b" * 64, x=b"nobody's")
    stray = f"artifacts/unit/{'a' * 64}/0123456789abcdef-x"
    lone = f"artifacts/unit/{'c' * 64}/resume"
    made_up.store.put_bytes(stray, b"loser of a race")
    made_up.store.put_bytes(lone, b"of an abandoned run")
    made_up.finished("a", artifacts=[kept])
    (made_up.store.root / "artifacts" / "unit" / "~0123").write_bytes(b"left by a killed writer")
    age_all(made_up.store, 8 * DAY)
    young = made_up.artifact("unit", "d" * 64, x=b"young")
    found = garbage.find(made_up.store, older_than=7 * DAY)
    assert {key.rpartition("/")[0] for key in keys(found.artifacts)} == {
        mine.rpartition("/")[0],
        lone.rpartition("/")[0],
    }
    assert keys(found.files) == {stray}
    assert keys(found.leftovers) == {"artifacts/unit/~0123"}

    assert keys(garbage.remove(made_up.store, found).all) == keys(found.all)
    assert garbage.find(made_up.store, older_than=7 * DAY).all == []
    for key in (kept, young):
        record = records.find(made_up.store, *key.split("/")[1:3])
        assert records.read(made_up.store, record.files["x"])
    left = {path.name for path in made_up.store.root.rglob("*") if path.is_file()}
    assert "~0123" not in left
    assert made_up.store.head(mine) is None


def test_an_unfinished_runs_artifacts_are_kept_while_it_is_at_work(made_up):
    old = made_up.artifact("base", "a" * 64, x=b"made by another run, long ago")
    resume = f"artifacts/unit/{'b' * 64}/resume"
    made_up.store.put_bytes(resume, b"state")
    made_up.spec("a")
    claims = json.dumps([old, f"artifacts/unit/{'b' * 64}/record.json"]).encode()
    made_up.store.put_bytes("runs/a/records/base.json", claims)
    age_all(made_up.store, 30 * DAY)
    made_up.events("a", {"kind": "alive"})  # it has just spoken
    assert garbage.find(made_up.store, older_than=7 * DAY).all == []
    age_all(made_up.store, 30 * DAY)
    found = garbage.find(made_up.store, older_than=7 * DAY)
    assert {old, resume} <= keys(found.artifacts)
    assert not any(key.startswith("runs/") for key in keys(found.all))


def test_what_is_claimed_meanwhile_is_not_removed(made_up):
    key = made_up.artifact("base", "a" * 64, x=b"weights")
    age_all(made_up.store, 30 * DAY)
    found = garbage.find(made_up.store, older_than=7 * DAY)
    assert key in keys(found.artifacts)
    made_up.spec("a")
    made_up.store.put_bytes("runs/a/records/base.json", json.dumps([key]).encode())
    assert garbage.remove(made_up.store, found).all == []
    assert records.find(made_up.store, "base", "a" * 64)


def test_leftovers_that_may_not_be_listed_stop_nothing(made_up, monkeypatch):
    def denied(_):
        raise UserError("no right")

    monkeypatch.setattr(garbage.leftovers, "leftovers", denied)
    key = made_up.artifact("base", "a" * 64, x=b"weights")
    age_all(made_up.store, 30 * DAY)
    found = garbage.find(made_up.store, older_than=7 * DAY)
    assert found.trouble == "no right"
    assert key in keys(garbage.remove(made_up.store, found).artifacts)


def test_a_file_of_another_artifact_is_kept_with_the_record_that_names_it(made_up):
    made_up.artifact("base", "a" * 64, x=b"weights")
    file = records.find(made_up.store, "base", "a" * 64).files["x"]
    kept = made_up.artifact("member", "b" * 64, x=file)
    made_up.finished("a", artifacts=[kept])
    age_all(made_up.store, 30 * DAY)
    found = garbage.find(made_up.store, older_than=7 * DAY)
    assert keys(found.all) == {f"artifacts/base/{'a' * 64}/record.json"}


@pytest.mark.parametrize("broken", ["runs/a/manifest.json", "runs/b/records/base.json", "record"])
def test_where_a_need_cannot_be_read_nothing_is_garbage(made_up, broken):
    key = made_up.artifact("unit", "a" * 64, x=b"kept")
    made_up.finished("a", artifacts=[key])
    made_up.spec("b")
    made_up.store.put_bytes("runs/b/records/base.json", b"[]")
    broken = key if broken == "record" else broken
    made_up.store.put_bytes(broken, b"damaged")
    with pytest.raises(WorldError, match=broken):
        garbage.find(made_up.store, older_than=DAY)
