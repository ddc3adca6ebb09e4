"""kill -9 at 20 random moments of a run in S3: each time the store is sound, and the run, started again, ends the same.

One process has everything imported and warm, and forks for every attempt at the run: what dies is the child.
"""

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from teddy_ray.pipeline import driver, garbage, runs
from teddy_ray.pipeline import manifest as manifests
from teddy_ray.spec import resolve
from teddy_ray.store import open_store, records
from teddy_ray.store.bucket import Bucket

ROOT = Path(__file__).parents[2]
MOMENTS = 20
SPEC = {
    "compute.executor": "inline", "data.classes": 3, "data.per_class": 40,
    "base.epochs": 3, "base.batch_size": 32, "base.warmup_epochs": 0.5, "base.threads": 1,
    "pool.size": 2,
    "distill.ipc": 3, "distill.unit_images": 3, "distill.iterations": 20, "distill.models_per_step": 1,
    "distill.checkpoint_seconds": 0.02, "distill.threads": 1,
    "relabel.views": 2,
    "evaluate.students": ["convnet"], "evaluate.seeds": 1, "evaluate.epochs": 2, "evaluate.regimes": ["views"],
    "evaluate.controls": ["random"],
}  # fmt: skip
"""Three units, each with many states to go on from; members and base go up in parts, so that these are cut off too."""
ORDER = ("nothing", "data", "checkpoint", "base", "member", "unit", "images", "labels", "student", "report", "finished")
PUBLISHED = ("dataset/data/", "labels/", "pool/", "spec.json")
"""What a run publishes that does not say what it took."""
FORKS = """
import json, os, signal, sys, tempfile, time
from teddy_ray import spec
from teddy_ray.pipeline import driver, journal
from teddy_ray.store import bucket, open_store

journal.FLUSH_SECONDS = 0.1
bucket.MULTIPART_BYTES = 50_000
settings = json.loads(sys.argv[1])
resolved = spec.resolve(recipe="teddy-post", file={}, overrides=settings)

with tempfile.TemporaryDirectory() as folder:
    driver.run(resolved, open_store(folder), emit=lambda _: None)

def attempt(uri, cache):
    os.environ["TEDDY_CACHE"] = cache
    driver.run(resolved, open_store(uri), emit=lambda _: None)
    os._exit(0)

print("ready", flush=True)
for line in sys.stdin:
    uri, cache, seconds = json.loads(line)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            attempt(uri, cache)
        finally:
            os._exit(1)
    ended = 0
    while not ended and (seconds is None or time.monotonic() - began < seconds):
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began]), flush=True)
"""


@pytest.fixture
def attempt(s3_settings, tmp_path):  # noqa: ARG001 - which sets the environment
    """Makes one attempt at the run in a store, killed after some seconds or not at all; exit code, how long it took."""
    command = [sys.executable, "-c", FORKS, json.dumps(SPEC)]
    with (tmp_path / "err").open("w") as errors:
        forks = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
        )
    assert forks.stdout.readline() == "ready\n", (tmp_path / "err").read_text()

    def make(uri, cache, *, seconds=None):
        forks.stdin.write(json.dumps([uri, str(cache), seconds]) + "\n")
        forks.stdin.flush()
        code, took = json.loads(forks.stdout.readline())
        assert code in ({0} if seconds is None else {0, -9}), (tmp_path / "err").read_text()
        return code, took

    yield make
    forks.communicate(timeout=30)


@pytest.mark.timeout(600)
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(attempt, s3_uri, another_machine, tmp_path):
    _, duration = attempt(f"{s3_uri}/undisturbed", tmp_path / "undisturbed")
    expected = content(f"{s3_uri}/undisturbed")
    dice, reached = random.Random(20), Counter()
    for number in range(MOMENTS):
        uri, cache = f"{s3_uri}/{number:02d}", tmp_path / f"cache-{number}"
        moment = (number + dice.random()) / MOMENTS * duration
        while attempt(uri, cache, seconds=moment)[0] == 0:  # it was faster than the undisturbed one
            uri, cache, moment = f"{uri}-again", tmp_path / f"{cache}-again", dice.uniform(0, moment)
        reached[check(uri)] += 1
        # On the machine that was killed, whose cache may be half written, or on another one.
        attempt(uri, cache if dice.random() < 0.5 else tmp_path / f"other-{number}")
        another_machine()
        assert check(uri) == "finished"
        assert content(uri) == expected, f"killed after {moment:.3f} s"
    assert len(reached) >= 6, reached


def test_between_any_two_writes_of_a_run_the_store_is_sound(s3_uri, monkeypatch):
    """Whatever moment a kill comes at, it leaves what the first so many writes have made: look at all of these."""
    seen, wrong = Counter(), []

    def watched(write):
        def and_look(*arguments):
            done = write(*arguments)
            try:
                seen[check(s3_uri)] += 1
            except (AssertionError, KeyError) as error:  # of the journal's thread, too
                wrong.append((write.__name__, arguments[1], error))
            return done

        return and_look

    for verb in ("put", "put_new", "copy", "delete"):
        monkeypatch.setattr(Bucket, verb, watched(getattr(Bucket, verb)))
    driver.run(resolve("teddy-post", {}, SPEC), open_store(s3_uri), emit=lambda _: None)
    assert not wrong
    assert set(seen) == set(ORDER)


@pytest.mark.timeout(300)
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(attempt, s3_uri, another_machine, tmp_path):
    _, duration = attempt(f"{s3_uri}/undisturbed", tmp_path / "undisturbed")
    dice, cache, kills = random.Random(21), tmp_path / "cache", 0
    while attempt(f"{s3_uri}/again", cache, seconds=duration * dice.uniform(0.2, 0.7))[0] != 0:
        kills += 1
        check(f"{s3_uri}/again")
        assert kills < 100
    assert kills >= 3
    another_machine()
    assert check(f"{s3_uri}/again") == "finished"
    assert content(f"{s3_uri}/again") == content(f"{s3_uri}/undisturbed")


def check(uri):
    """Whatever claims to be there is there, with the bytes that it claims; the last stage that has any of it."""
    store = open_store(uri)
    there = {entry.key: entry.size for entry in store.list("")}
    last = {"nothing"}
    for key in there:
        if key.endswith("/record.json"):
            record = records.Record.from_json(store.get(key))
            last.add(record.stage)
            assert_there(store, there, record.files)
    for run in runs.listing(store):
        manifest = manifests.load(store, run)
        assert runs.status(store, run).state == ("finished" if manifest else "running")
        if manifest:
            last.add("finished")
            assert_there(store, there, manifest.files)
            assert set(manifest.records) <= set(there)
    return max(last, key=ORDER.index)


def assert_there(store, there, files):
    for file in files.values():
        assert there[file.key] == file.size
        assert hashlib.sha256(store.get(file.key)).hexdigest() == file.sha256


def content(uri):
    """What a run has made, by the address of what made it, and what it has published; no times, no costs."""
    store = open_store(uri)
    (run,) = runs.listing(store)
    manifest = manifests.load(store, run)
    made = {
        (record.stage, record.digest, name): file.sha256
        for stage in set(ORDER) - {"nothing", "report", "finished"}
        for record in records.find_all(store, stage)
        for name, file in record.files.items()
    }
    published = {name: file.sha256 for name, file in manifest.files.items() if name.startswith(PUBLISHED)}
    scores = [(row["set"], row["regime"], row["runs"]) for row in manifests.results(store, manifest)["scores"]]
    # Killed between a record and the removal of the state that led to it: that is nobody's then, and gc's.
    states = {entry.key for entry in store.list("artifacts/") if entry.key.endswith("/resume")}
    assert states <= {entry.key for entry in garbage.find(store, older_than=-60.0).all}
    return made, published, scores
