"""What a run says reaches the store while it works, with how each attempt ended."""

import json
import time

import pytest

from teddy_ray.errors import WorldError
from teddy_ray.pipeline import journal, runs
from teddy_ray.pipeline.events import event
from teddy_ray.pipeline.journal import Journal
from teddy_ray.store import FolderStore


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.02)


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path)


def wait_for(there):
    end = time.monotonic() + 5
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def said(store):
    return [[(e["kind"], e.get("message")) for e in attempt] for attempt in runs.events(store, "a")]


@pytest.mark.usefixtures("fast")
def test_events_are_there_while_the_run_works_and_files_do_not_change(store):
    with Journal(store, "runs/a") as told:
        told(event("stage_started", "base", done=0, total=1))
        wait_for(lambda: len(said(store)[0]) == 2)
        before = {entry.key: store.get(entry.key) for entry in store.list("runs/a/")}
        told(event("task_done", "base", task="train"))
        wait_for(lambda: len(said(store)[0]) == 3)
        assert {key: store.get(key) for key in before} == before


@pytest.mark.usefixtures("fast")
def test_a_silent_run_says_that_it_is_alive(store, monkeypatch):
    monkeypatch.setattr(journal, "ALIVE_SECONDS", 0.05)
    with Journal(store, "runs/a"):
        wait_for(lambda: said(store)[0][-1][0] == "alive")


def end(store, error):
    with Journal(store, "runs/a") as told:
        told(event("stage_started", "distill", done=0, total=1))
        raise error


@pytest.mark.parametrize(
    ("error", "outcome", "words"),
    [
        (WorldError("the disk is full"), "failed", ["the disk is full"]),
        (
            ZeroDivisionError("a bug"),
            "failed",
            ["Traceback (most recent call last):", "raise error", "ZeroDivisionError: a bug"],
        ),
        (KeyboardInterrupt(), "stopped", ["stopped by Ctrl-C or a signal"]),
        (SystemExit(1), "stopped", ["stopped by Ctrl-C or a signal"]),
    ],
)
def test_the_last_event_says_how_an_attempt_ended(store, error, outcome, words):
    with pytest.raises(type(error)):
        end(store, error)
    last = runs.events(store, "a")[-1][-1]
    assert (last["kind"], last["outcome"], last["stage"]) == ("ended", outcome, "distill")
    assert all(word in last["message"] for word in words)


def test_an_attempt_has_a_folder_of_its_own(store):
    for _ in range(3):
        with Journal(store, "runs/a") as told:
            told(event("note", "base", message="hello"))
    assert said(store) == [[("note", f"attempt {number}"), ("note", "hello")] for number in (1, 2, 3)]


class Full(FolderStore):
    def put_bytes(self, *_):
        raise WorldError("the journal's disk is full")


@pytest.mark.usefixtures("fast")
def test_what_cannot_be_written_is_told_to_the_next_who_speaks(tmp_path):
    def speak():
        with Journal(Full(tmp_path), "runs/a") as told:
            while True:
                told(event("note", "base", message="hello"))
                time.sleep(0.01)

    with pytest.raises(WorldError, match="the journal's disk is full"):
        speak()


def test_a_store_that_fails_does_not_hide_what_ended_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError):
        end(Full(tmp_path), ZeroDivisionError())


def test_what_is_left_at_the_end_is_written_or_raised(tmp_path):
    def speak():
        with Journal(Full(tmp_path), "runs/a") as told:
            told(event("note", "base", message="hello"))

    with pytest.raises(WorldError, match="the journal's disk is full"):
        speak()


def test_events_come_before_the_journal_is_entered_too(store):
    told = Journal(store, "runs/a")
    told(event("note", "data", message="early"))
    assert not list(store.list(""))
    with told:
        pass
    assert json.loads(store.get("runs/a/events/0001/000000.jsonl"))["message"] == "early"
