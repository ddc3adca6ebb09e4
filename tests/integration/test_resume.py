"""What is finished is never made again: after a kill, a stop, a growth, and beside another run in the same store."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from teddy_ray.store import checkpoints, images, open_store

INLINE = "compute.executor=inline"
RAY = ("compute.executor=ray", "compute.workers=2")
SECONDS = 30
"""Within which a stop must come; on a machine of its own it is a tenth of that."""


def test_a_second_run_makes_nothing_and_says_the_same(teddy_cloud, reference, store):
    shutil.copytree(reference.store, store)
    before = {path: path.read_bytes() for path in (store / "artifacts").rglob("*") if path.is_file()}
    done = teddy_cloud.run(store, INLINE)
    results = done.results()
    reference.assert_equal(results)
    assert results["reused"]["stages"] == ["data", "base", "pool", "distill", "relabel", "evaluate"]
    assert len(results["reused"]["units"]) == 4
    assert done.seconds < SECONDS
    assert {path: path.read_bytes() for path in (store / "artifacts").rglob("*") if path.is_file()} == before


def test_a_larger_ipc_appends_images_to_those_that_are_there(teddy_cloud, reference, store):
    shutil.copytree(reference.store, store)
    results = teddy_cloud.results(store, INLINE, "distill.ipc=8")
    assert results["reused"]["stages"] == ["data", "base", "pool"]
    assert results["reused"]["units"] == [f"c0000-s{slot:04d}" for slot in range(4)]
    small, large = (published(Path(folder)) for folder in (reference.results["folder"], results["folder"]))
    assert (len(small[0]), len(large[0])) == (12, 24)
    for few, many in zip(small, large, strict=True):
        assert few.equal(many[:12])


def published(folder):
    (path,) = (folder / "dataset" / "data").iterdir()
    return images.from_parquet(path.read_bytes())[:2]


def test_two_runs_at_once_make_the_same_as_one(teddy_cloud, reference, store, artifacts):
    runs = [teddy_cloud.start(store, INLINE) for _ in range(2)]
    for run in runs:
        reference.assert_equal(run.wait().results())
    artifacts(store).check()
    folder = store / "runs" / reference.folder.name
    assert sorted(path.name for path in (folder / "events").iterdir()) == ["0001", "0002"]
    assert json.loads((folder / "manifest.json").read_text())["records"]


def test_two_different_runs_at_once_share_what_they_can(teddy_cloud, reference, store, artifacts, tmp_path):
    other = "distill.iterations=100"
    runs = [teddy_cloud.start(store, INLINE), teddy_cloud.start(store, INLINE, other)]
    shared, different = (run.wait().results() for run in runs)
    reference.assert_equal(shared)
    reference.copy_until("unit", tmp_path / "alone")
    assert different["digests"] == teddy_cloud.results(tmp_path / "alone", INLINE, other)["digests"]
    assert different["digests"]["images"] != shared["digests"]["images"]
    assert [len(artifacts(store).records(stage)) for stage in ("base", "member", "unit")] == [1, 2, 8]
    artifacts(store).check()


LONG_BASE = ("base.epochs=60", "distill.init=real", "distill.iterations=0")


def test_a_base_killed_in_training_goes_on_from_its_last_epoch(teddy_cloud, reference, store, tmp_path):
    settings = (INLINE, *LONG_BASE)
    artifacts = reference.copy_until("checkpoint", store)
    run = teddy_cloud.start(store, *settings)
    run.wait_until(lambda: len(artifacts.records("checkpoint")) >= 5)
    assert run.signal(signal.SIGKILL).code == -signal.SIGKILL
    kept = contents(artifacts.records("checkpoint"))
    assert 5 <= len(kept) < 60
    assert artifacts.checkpoint("base")
    results = teddy_cloud.results(store, *settings)
    assert contents(kept) == kept
    # One epoch at most is lost: that whose record was there, but not yet the state to go on from.
    assert first_progress(results, "base") >= 3 * (len(kept) - 1)
    curve = json.loads((Path(results["folder"]) / "results.json").read_text())["base"]["curve"]
    assert [point["epoch"] for point in curve] == list(range(1, 61))

    undisturbed = reference.copy_until("checkpoint", tmp_path / "undisturbed")
    assert teddy_cloud.results(tmp_path / "undisturbed", *settings)["digests"] == results["digests"]
    ((of_killed,), (of_undisturbed,)) = (each.folder.glob("base/*/*-weights*") for each in (artifacts, undisturbed))
    assert of_killed.read_bytes() == of_undisturbed.read_bytes()
    artifacts.check()  # the state to go on from is gone


def test_a_killed_run_goes_on_in_the_middle_of_a_unit(teddy_cloud, reference, store):
    artifacts = reference.copy_until("unit", store)
    run = teddy_cloud.start(store, INLINE)
    checkpoint = run.freeze_when(artifacts.half_way)
    assert run.signal(signal.SIGKILL).code == -signal.SIGKILL
    kept = contents(artifacts.records("unit"))
    iteration = iteration_of(store, checkpoint)
    results = teddy_cloud.results(store, INLINE)
    reference.assert_equal(results)
    assert len(results["reused"]["units"]) == len(kept)
    assert contents(kept) == kept
    assert 0 < iteration < first_progress(results, "distill")
    assert not artifacts.checkpoint("unit")
    sheets = [Path(folder, "contact-sheet.png").read_bytes() for folder in (results["folder"], reference.folder)]
    assert sheets[0] == sheets[1]  # the units of the first attempt are on it too


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_what_is_kept_and_goes_on(teddy_cloud, reference, store, number):
    artifacts = reference.copy_until("unit", store)
    run = teddy_cloud.start(store, INLINE)
    run.wait_until(artifacts.half_way)
    assert_stopped(run.signal(number), number, store)
    results = teddy_cloud.results(store, INLINE)
    reference.assert_equal(results)
    assert results["reused"]["units"]


@pytest.mark.timeout(600)
def test_a_ray_run_survives_a_killed_worker(teddy_cloud, reference, store, processes):
    artifacts = reference.copy_until("unit", store)
    run = teddy_cloud.start(store, *RAY)
    run.wait_until(artifacts.half_way)
    worker = processes.of(run.process.pid, titled="RayTrainWorker")[0]
    kept = contents(artifacts.records("unit"))
    worker.kill()
    results = run.wait().results()
    reference.assert_equal(results)
    assert contents(kept) == kept
    assert len(kept) < 4
    assert not artifacts.checkpoint("unit")


@pytest.mark.timeout(900)
def test_a_ray_run_goes_on_after_ctrl_c_and_after_a_kill(teddy_cloud, reference, store, processes):
    artifacts = reference.copy_until("unit", store)
    run = teddy_cloud.start(store, *RAY)
    run.wait_until(artifacts.half_way)
    started = processes.of(run.process.pid)
    assert_stopped(run.signal(signal.SIGINT), signal.SIGINT, store)
    processes.wait_until_gone(started, SECONDS)
    kept = contents(artifacts.records("unit"))

    again = time.time()
    run = teddy_cloud.start(store, *RAY)
    run.wait_until(lambda: artifacts.checkpoint("unit", since=again))
    started = processes.of(run.process.pid)
    assert run.signal(signal.SIGKILL).code == -signal.SIGKILL
    # Two agents of Ray's own, idle, give the rest of it a minute to come back.
    processes.wait_until_gone([each for each in started if "Agent" not in each.title], SECONDS)

    results = teddy_cloud.results(store, *RAY)
    reference.assert_equal(results)
    assert len(results["reused"]["units"]) >= len(kept) > 0
    assert contents(kept) == kept
    assert not artifacts.checkpoint("unit")
    processes.wait_until_gone(started, 90)


def contents(paths):
    return {path: path.read_bytes() for path in paths}


def iteration_of(store, checkpoint):
    """Where a unit stands."""
    return int(checkpoints.load(open_store(str(store)), checkpoint.relative_to(store).as_posix())["iteration"])


def first_progress(results, stage):
    """How far the last attempt at a run was when it first spoke of a stage."""
    attempt = max((Path(results["folder"]) / "events").iterdir())
    events = [json.loads(line) for path in sorted(attempt.glob("0*.jsonl")) for line in path.read_text().splitlines()]
    return next(event["done"] for event in events if (event["kind"], event["stage"]) == ("progress", stage))


def assert_stopped(done, number, store):
    assert done.code == 128 + number, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("stopped: ")]
    assert f"kept in {store}; go on with: teddy-cloud run --json" in line
    assert done.seconds < SECONDS
