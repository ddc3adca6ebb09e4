"""A finished run in the hands of its user: listed, watched, pulled, compared, and none the worse for ``gc``."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("teddy-cloud")
FILES = 12
"""The images, their card, the labels, three of a report, results and spec, the base and two members; the manifest."""


@dataclass
class Copied:
    """The tiny run in a store of the test's own."""

    store: Path
    run: str

    def call(self, command, *arguments):
        """Exit code, standard output, standard error of ``teddy-cloud``."""
        line = [COMMAND, command, *map(str, arguments), "--store", self.store]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    def path(self, name):
        """A published file in the store."""
        manifest = json.loads((self.store / "runs" / self.run / "manifest.json").read_text())
        return self.store / manifest["files"][name]["key"]


@pytest.fixture
def copied(reference, tmp_path):
    shutil.copytree(reference.store, tmp_path / "store")
    return Copied(tmp_path / "store", reference.folder.name)


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_pull_brings_all_and_the_second_transfers_nothing(copied, reference, tmp_path):
    code, out, err = copied.call("pull", copied.run, tmp_path / "out")
    assert (code, err) == (0, "")
    assert f"{FILES - 1} files fetched" in out
    pulled = content(tmp_path / "out")
    assert len(pulled) == FILES
    for name in set(pulled) - {"manifest.json"}:
        assert pulled[name] == copied.path(name).read_bytes()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    code, out, _ = copied.call("pull", copied.run[:10], tmp_path / "out", "--verify")
    assert (code, "all of them there before" in out) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert pulled["results.json"] == (reference.folder / "results.json").read_bytes()


def test_what_a_pull_leaves_opens_with_the_libraries_that_people_use(copied, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets
    import pandas
    import safetensors.torch

    out = tmp_path / "out"
    assert copied.call("pull", copied.run, out)[0] == 0
    images = datasets.load_dataset(str(out / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert images.features["label"].names == ["0", "1", "2"]
    assert {row["image"].size for row in images} == {(8, 8)}
    labels = pandas.read_parquet(out / "labels")
    assert len(labels) == 12 * 4
    for member in ("base", "post-0000", "post-0001"):
        assert safetensors.torch.load_file(out / "pool" / f"{member}.safetensors")
    assert b"<html" in (out / "report" / "index.html").read_bytes()


SLOW_PULL = """
import sys, time
from pathlib import Path
from teddy_ray.pipeline import pull
from teddy_ray.store import FolderStore

class Slow(FolderStore):
    def get_range(self, key, start, length):
        time.sleep(0.05)
        return super().get_range(key, start, min(length, 50_000))

pull.pull(Slow(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
"""


def test_a_pull_killed_in_the_middle_of_a_file_goes_on_there(copied, tmp_path):
    out = tmp_path / "out"
    slow = subprocess.Popen([sys.executable, "-c", SLOW_PULL, copied.store, copied.run, out])
    try:
        end = time.monotonic() + 60
        while not (parts := [part for part in out.rglob("*.safetensors.*.part") if part.stat().st_size > 100_000]):
            assert slow.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        slow.send_signal(signal.SIGKILL)
        slow.wait()
    come = sum(part.stat().st_size for part in parts)
    assert not (out / "manifest.json").exists()
    code, said, _ = copied.call("pull", copied.run, out)
    assert code == 0
    assert not list(out.rglob("*.part"))
    pulled = content(out)
    for name in set(pulled) - {"manifest.json"}:
        assert pulled[name] == copied.path(name).read_bytes()
    megabytes = float(said.split(", ")[-1].removesuffix(" MB\n"))
    total = sum(len(data) for name, data in pulled.items() if name != "manifest.json")
    assert megabytes * 1e6 <= total - come + 1e5  # what had come did not come again


@pytest.mark.parametrize("group", ["images", "labels", "report", "pool"])
def test_a_flipped_bit_is_found_by_name(copied, tmp_path, group):
    prefixes = {"images": "dataset/data/", "labels": "labels/", "report": "report/index.html", "pool": "pool/post-0001"}
    manifest = json.loads((copied.store / "runs" / copied.run / "manifest.json").read_text())
    (name,) = [name for name in manifest["files"] if name.startswith(prefixes[group])]
    data = bytearray(copied.path(name).read_bytes())
    data[len(data) // 2] ^= 1
    copied.path(name).write_bytes(data)
    code, _, err = copied.call("pull", copied.run, tmp_path / "out", "--only", group)
    assert code == 1
    assert err.startswith(f"error: {name} is not what the run wrote")
    assert err.count("\n") == 1
    assert name not in content(tmp_path / "out")


def test_the_remedy_that_a_mismatch_names_works(copied, teddy_cloud, tmp_path):
    manifest = copied.store / "runs" / copied.run / "manifest.json"
    (name,) = [name for name in json.loads(manifest.read_text())["files"] if name.startswith("labels/")]
    copied.path(name).write_bytes(b"damaged")
    err = copied.call("pull", copied.run, tmp_path / "out")[2]
    record = err.split("remove ")[-1].split(" too")[0]
    manifest.unlink()
    (copied.store / record).unlink()
    teddy_cloud.results(copied.store, "compute.executor=inline")
    assert copied.call("pull", copied.run, tmp_path / "out")[0] == 0


def test_an_artifact_made_anew_gets_its_run_a_new_manifest(copied, teddy_cloud, tmp_path):
    manifest = copied.store / "runs" / copied.run / "manifest.json"
    before = manifest.read_bytes()
    (labels,) = [key for key in json.loads(before)["files"] if key.startswith("labels/")]
    copied.path(labels).write_bytes(b"damaged")
    for record in (copied.store / "artifacts" / "labels").glob("*/record.json"):
        record.unlink()
    teddy_cloud.results(copied.store, "compute.executor=inline")
    assert manifest.read_bytes() != before  # the records are others: they say when
    assert copied.call("pull", copied.run, tmp_path / "out")[0] == 0


def test_gc_leaves_what_a_finished_run_needs_and_removes_the_rest(copied, teddy_cloud, reference, tmp_path):
    artifacts = copied.store / "artifacts"
    junk = [artifacts / "unit" / ("f" * 64) / "resume", artifacts / "base" / "~0123456789abcdef"]
    junk += [next((artifacts / "student").iterdir()) / "0123456789abcdef-x"]
    for path in junk:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk")
    for path in copied.store.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 30 * 86400,) * 2)
    before = content(copied.store)
    code, would, _ = copied.call("gc", "--dry-run")
    assert (code, content(copied.store)) == (0, before)
    code, did, _ = copied.call("gc")
    assert code == 0
    assert did.replace("removed:", "would be removed:") == would
    gone = set(before) - set(content(copied.store))
    # The base's checkpoints are no members here, and so nobody's.
    checkpoints = {name for name in before if name.startswith("artifacts/checkpoint/")}
    assert gone == {path.relative_to(copied.store).as_posix() for path in junk} | checkpoints
    assert checkpoints
    assert copied.call("gc")[1] == "nothing to remove\n"

    assert copied.call("pull", copied.run, tmp_path / "out")[0] == 0
    again = teddy_cloud.results(copied.store, "compute.executor=inline")
    assert again["reused"]["stages"] == ["data", "base", "pool", "distill", "relabel", "evaluate"]
    reference.assert_equal(again)


def test_gc_while_a_run_is_at_work_costs_it_nothing(teddy_cloud, reference, store, artifacts):
    """An hour is the least that may be asked for, so the clock is turned back for everything but the run itself."""
    running = teddy_cloud.start(store, "compute.executor=inline")
    running.wait_until(lambda: artifacts(store).records("unit"))
    for path in (store / "artifacts").rglob("*"):
        with suppress(FileNotFoundError):  # what the run has done with meanwhile
            os.utime(path, (time.time() - 86400,) * 2)
    line = [COMMAND, "gc", "--store", store, "--older-than", "1h"]
    assert subprocess.run(line, capture_output=True, check=True, timeout=120).stdout == b"nothing to remove\n"
    reference.assert_equal(running.wait().results())


def test_a_killed_run_is_seen_from_its_store_and_goes_on(teddy_cloud, reference, store, artifacts):
    running = teddy_cloud.start(store, "compute.executor=inline")
    running.wait_until(lambda: artifacts(store).records("unit"))
    copied = Copied(store, next((store / "runs").iterdir()).name)
    status = json.loads(copied.call("status", copied.run, "--json")[1])
    assert (status["state"], status["dataset"], status["ipc"]) == ("running", "digits", 4)
    running.signal(signal.SIGKILL)
    assert copied.call("pull", copied.run, store / "out")[0] == 2
    for path in (store / "runs").rglob("*"):
        os.utime(path, (time.time() - 1000,) * 2)
    (summary,) = json.loads(copied.call("list", "--json")[1])
    assert (summary["run"], summary["state"]) == (copied.run, "stopped")

    reference.assert_equal(teddy_cloud.results(store, "compute.executor=inline"))
    status = json.loads(copied.call("status", copied.run, "--json")[1])
    assert (status["state"], len(status["attempts"])) == ("finished", 2)
    assert [(stage["done"], stage["share"]) for stage in status["stages"] if stage["total"]] == [
        (stage["total"], 1.0) for stage in status["stages"] if stage["total"]
    ]
    said = copied.call("logs", copied.run)[1]
    assert "attempt 1" in said
    assert "attempt 2" in said
    assert "report done" in said


def test_a_run_that_is_interrupted_or_fails_says_so_in_its_store(teddy_cloud, store, artifacts):
    running = teddy_cloud.start(store, "compute.executor=inline")
    running.wait_until(lambda: artifacts(store).records("member"))
    assert running.signal(signal.SIGTERM).code == 143
    copied = Copied(store, next((store / "runs").iterdir()).name)
    assert json.loads(copied.call("status", copied.run, "--json")[1])["state"] == "stopped"
    (base,) = (store / "artifacts" / "base").glob("*/*-weights.safetensors")
    base.write_bytes(b"damaged")
    assert teddy_cloud.run(store, "compute.executor=inline").code == 1
    status = json.loads(copied.call("status", copied.run, "--json")[1])
    assert status["state"] == "failed"
    assert base.name in status["message"]
    assert base.name in copied.call("logs", copied.run)[1]
