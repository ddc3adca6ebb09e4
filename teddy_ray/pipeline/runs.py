"""Runs as the store knows them, which is all that is left when the machine that made them is gone.

    run = find(store, "digits-ipc1")                 # an unambiguous beginning of its name
    for summary in summaries(store): ...
    status(store, run).stages

A run has a spec.json from its first moment, events while it works, a manifest at its end. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline import manifest as manifests
from teddy_ray.pipeline.events import STAGES, Event
from teddy_ray.pipeline.manifest import Manifest
from teddy_ray.pipeline.progress import StageProgress, Stages
from teddy_ray.store import Entry, Store
from teddy_ray.store.base import is_key

State = Literal["finished", "running", "stopped", "failed", "unreadable"]
"""running: at work. stopped: ended before its time, or silent for too long. failed: by an error, which is its message.
unreadable: what the store has of it is damaged, or could not be had; the message says what and why."""
STATES: tuple[State, ...] = ("finished", "running", "stopped", "failed", "unreadable")

SILENT_SECONDS = 100.0
"""A run at work writes at least every 30 s; one that has not for this long is taken for stopped."""
READERS = 16
"""Small files are read side by side: it is the store's answering time that counts."""

Files = dict[str, Entry]
"""A run's files by their names in its folder."""


@dataclass(frozen=True, kw_only=True)
class Best:
    """A run's highest score on synthetic images, and the strongest control of the same student and regime."""

    student: str
    regime: str
    accuracy: float
    spread: float | None
    control: str | None
    control_accuracy: float | None
    control_spread: float | None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run as a line of a list. Times are Unix time; ``bytes`` is what ``pull`` would fetch."""

    run: str
    state: str
    """One of STATES; who knows more, as a cluster does, may say it in other words."""
    recipe: str = ""
    dataset: str = ""
    ipc: int | None = None
    best: Best | None = None
    bytes: int | None = None
    began: float
    updated: float
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a run. ``outcome`` is empty where nothing says how it ended, or that it has."""

    number: int
    began: float
    updated: float
    outcome: Literal["", "failed", "stopped"]
    message: str


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """How far a stage is: its tasks, its share of all their work, and seconds it took or has left, where known."""

    stage: str
    done: int
    total: int | None
    reused: int
    share: float
    seconds: float | None
    left: float | None
    numbers: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run looked at closely; its stages are those of its latest attempt."""

    run: str
    state: State
    recipe: str
    dataset: str
    ipc: int
    began: float
    updated: float
    message: str
    attempts: list[Attempt]
    stages: list[StageStatus]


def find(store: Store, given: str) -> str:
    """The one run whose name is ``given`` or begins with it; UserError names the candidates, or the nearest names."""
    known = (listing(store, given) if is_key(given) else {}) or listing(store)
    if not known:
        raise UserError(f"there is no run '{given}' in {store.uri}, nor any other: is --store the right one?")
    return choose(given, known, where=store.uri)


def choose(given: str, known: Iterable[str], *, where: str) -> str:
    """The one of the names ``known`` that is ``given`` or begins with it. Raises UserError."""
    known = sorted(known)
    found = [given] if given in known else [name for name in known if name.startswith(given)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"'{given}' begins the names of {len(found)} runs in {where}: {_some(found)}; give more of it")
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.3)
    hint = f"the nearest names are {_some(near)}" if near else "`teddy-cloud list` shows those there are"
    raise UserError(f"there is no run '{given}' in {where}: {hint}")


def listing(store: Store, beginning: str = "") -> dict[str, Files]:
    """The files of every run whose name begins so: of a store's many, those that are asked for are few."""
    found: dict[str, Files] = {}
    for entry in store.list(f"runs/{beginning}"):
        _, run, *name = entry.key.split("/")
        if name:
            found.setdefault(run, {})["/".join(name)] = entry
    return {run: files for run, files in found.items() if "spec.json" in files}


def summaries(store: Store) -> list[RunSummary]:
    """Every run, the latest first."""
    with ThreadPoolExecutor(READERS) as threads:
        found = threads.map(lambda item: _summary(store, *item), listing(store).items())
        return sorted(found, key=lambda summary: summary.began, reverse=True)


def status(store: Store, run: str, *, known: dict[str, list[Event]] | None = None) -> RunStatus:
    """How far ``run`` is. Who asks again hands in the same ``known``, and no file of events is read twice."""
    files = {entry.key.removeprefix(f"runs/{run}/"): entry for entry in store.list(f"runs/{run}/")}
    known = {} if known is None else known
    tries = attempts(files)
    latest = [entry.key for entry in tries[-1]] if tries else []
    ends = [entries[-1].key for entries in tries]
    _read_events(store, {*latest, *ends}, known)
    state, message = _state(files, known[ends[-1]][-1] if ends else None)
    told = [_attempt(number, entries, known) for number, entries in enumerate(tries, start=1)]
    return RunStatus(
        run=run,
        state=state,
        **_of_spec(spec(store, run)),
        began=files["spec.json"].modified,
        updated=_updated(files),
        message=message,
        attempts=told,
        stages=_stages([event for key in latest for event in known[key]], at_work=state == "running"),
    )


def spec(store: Store, run: str) -> dict[str, Any]:
    """A run's spec as nested values, even if of another version."""
    key = f"runs/{run}/spec.json"
    try:
        values: dict[str, Any] = json.loads(store.get(key))
        _of_spec(values)
    except (ValueError, KeyError, TypeError) as error:
        raise WorldError(f"{store.uri}/{key} is damaged or not ours ({error!r})") from error
    return values


def events(store: Store, run: str, *, known: dict[str, list[Event]] | None = None) -> list[list[Event]]:
    """What every attempt has said; ``known`` as for status."""
    entries = attempts({entry.key.removeprefix(f"runs/{run}/"): entry for entry in store.list(f"runs/{run}/events/")})
    known = {} if known is None else known
    _read_events(store, {entry.key for attempt in entries for entry in attempt}, known)
    return [[event for entry in attempt for event in known[entry.key]] for attempt in entries]


def attempts(files: Files) -> list[list[Entry]]:
    """The files of events of every attempt, in the order in which they were written."""
    found: dict[str, list[tuple[bool, str]]] = {}
    for name in files:
        parts = name.split("/")
        if parts[0] == "events" and len(parts) == 3 and name.endswith(".jsonl"):
            found.setdefault(parts[1], []).append((parts[2] != "began.jsonl", name))
    return [[files[name] for _, name in sorted(names)] for _, names in sorted(found.items())]


def best(scores: Iterable[dict[str, Any]]) -> Best | None:
    """The highest score of the synthetic images with its strongest control, of a results.json's scores."""
    scores = list(scores)
    own = max((row for row in scores if row["set"] == "distilled"), key=lambda row: row["accuracy"], default=None)
    if own is None:
        return None
    same = [row for row in scores if (row["student"], row["regime"]) == (own["student"], own["regime"])]
    controls = [row for row in same if row["set"] not in ("distilled", "full")]
    control = max(controls, key=lambda row: row["accuracy"], default={})
    return Best(
        student=own["student"],
        regime=own["regime"],
        accuracy=own["accuracy"],
        spread=own["spread"],
        control=control.get("set"),
        control_accuracy=control.get("accuracy"),
        control_spread=control.get("spread"),
    )


def _summary(store: Store, run: str, files: Files) -> RunSummary:
    times: dict[str, Any] = {"began": files["spec.json"].modified, "updated": _updated(files)}
    try:
        values = _of_spec(spec(store, run))
        manifest = manifests.load(store, run) if "manifest.json" in files else None
        if manifest is not None:
            return _finished(store, run, manifest, values, times)
        tries = attempts(files)
        known: dict[str, list[Event]] = {}
        _read_events(store, {entries[-1].key for entries in tries[-1:]}, known)
        state, message = _state(files, known[tries[-1][-1].key][-1] if tries else None)
        return RunSummary(run=run, state=state, message=message, **values, **times)
    except WorldError as error:
        # One bad run must not hide the others.
        return RunSummary(run=run, state="unreadable", message=str(error), **times)


def _finished(store: Store, run: str, manifest: Manifest, values: dict[str, Any], times: dict[str, Any]) -> RunSummary:
    scores = manifests.results(store, manifest)["scores"]
    size = sum(file.size for file in manifest.files.values())
    return RunSummary(run=run, state="finished", best=best(scores), bytes=size, **values, **times)


def _of_spec(values: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": values["recipe"], "dataset": values["data"]["source"], "ipc": values["distill"]["ipc"]}


def _updated(files: Files) -> float:
    """When the run last wrote anything."""
    return max(entry.modified for entry in files.values())


def _state(files: Files, last: Event | None) -> tuple[State, str]:
    """The state of a run, of its files and its latest attempt's last event; with what it says of itself."""
    if "manifest.json" in files:
        return "finished", ""
    if last is not None and last["kind"] == "ended":
        return last["outcome"], last["message"]
    return ("running" if time.time() - _updated(files) < SILENT_SECONDS else "stopped"), ""


def _attempt(number: int, entries: Sequence[Entry], known: dict[str, list[Event]]) -> Attempt:
    last = known[entries[-1].key][-1]
    ended = last["kind"] == "ended"
    return Attempt(
        number=number,
        began=entries[0].modified,
        updated=entries[-1].modified,
        outcome=last["outcome"] if ended else "",
        message=last["message"] if ended else "",
    )


def _stages(said: Iterable[Event], *, at_work: bool) -> list[StageStatus]:
    """Every stage, begun or not."""
    stages = Stages()
    for event in said:
        stages.take(event)
    return [_stage(name, stages.get(name), at_work=at_work) for name in STAGES]


def _stage(name: str, stage: StageProgress | None, *, at_work: bool) -> StageStatus:
    if stage is None:
        return StageStatus(stage=name, done=0, total=None, reused=0, share=0.0, seconds=None, left=None, numbers={})
    left = stage.left() if at_work and stage.seconds is None else None
    return StageStatus(
        stage=name,
        # A stage without tasks of its own is done when it says so.
        done=stage.total if stage.seconds is not None else stage.done,
        total=stage.total,
        reused=stage.reused,
        share=stage.share,
        seconds=stage.seconds,
        left=None if left is None else max(0.0, stage.now + left - time.time()),
        numbers=stage.numbers,
    )


def _read_events(store: Store, keys: Iterable[str], known: dict[str, list[Event]]) -> None:
    """Read those files that are not known yet; a file of events, once there, does not change."""
    new = sorted(key for key in keys if key not in known)
    with ThreadPoolExecutor(READERS) as threads:
        known.update(zip(new, threads.map(lambda key: _events_of(store, key), new), strict=True))


def _events_of(store: Store, key: str) -> list[Event]:
    try:
        found: list[Event] = [json.loads(line) for line in store.get(key).splitlines()]
        wanting = [event for event in found if not {"time", "kind", "stage"} <= event.keys()]
    except (ValueError, AttributeError) as error:
        raise _no_events(store, key, error) from error
    if wanting or not found:
        raise _no_events(store, key, wanting)
    return found


def _no_events(store: Store, key: str, reason: object) -> WorldError:
    return WorldError(f"{store.uri}/{key} is damaged or not ours ({reason}): remove it to see the rest")


def _some(names: Sequence[str]) -> str:
    """Names for a sentence: not hundreds."""
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
