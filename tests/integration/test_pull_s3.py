"""The same commands, with the run in S3: a copy of the tiny run there, and nothing of it here."""

import json
import random
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from teddy_ray.errors import WorldError
from teddy_ray.pipeline import garbage, pull
from teddy_ray.pipeline import manifest as manifests
from teddy_ray.store import open_store, records

COMMAND = Path(sys.executable).with_name("teddy-cloud")
STAGES = ("data", "checkpoint", "base", "member", "unit", "images", "labels", "student", "report")
PUBLISHED = {"dataset", "labels", "report", "results.json", "spec.json"}
pytestmark = pytest.mark.usefixtures("s3_settings")


@pytest.fixture
def store(reference, s3_uri):
    """The reference run's files under the same keys in S3."""
    there = open_store(s3_uri)
    for path in sorted(reference.store.rglob("*")):
        if path.is_file():
            there.put_file(path.relative_to(reference.store).as_posix(), path)
    return there


def call(store, command, *arguments):
    line = [COMMAND, command, *map(str, arguments), "--store", store.uri]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def content(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_run_in_s3_is_listed_shown_and_pulled(store, reference, tmp_path):
    run = reference.folder.name
    (summary,) = json.loads(call(store, "list", "--json")[1])
    assert (summary["run"], summary["state"]) == (run, "finished")
    status = json.loads(call(store, "status", run[:9], "--json")[1])
    assert {stage["stage"] for stage in status["stages"] if stage["share"] == 1.0} >= {"base", "distill", "report"}
    assert "report done" in call(store, "logs", run)[1]

    code, _, err = call(store, "pull", run, tmp_path / "out")
    assert (code, err) == (0, "")
    pulled = content(tmp_path / "out")
    manifest = json.loads(pulled.pop("manifest.json"))
    assert set(pulled) == set(manifest["files"])
    for name, file in manifest["files"].items():
        assert pulled[name] == (reference.store / file["key"]).read_bytes()
    assert call(store, "pull", run, tmp_path / "out")[1].endswith("all of them there before\n")


def test_a_pull_from_s3_goes_on_in_the_middle_of_a_file(store, reference, tmp_path):
    run = reference.folder.name
    name = "pool/base.safetensors"
    file = json.loads((reference.folder / "manifest.json").read_text())["files"][name]
    half = (reference.store / file["key"]).read_bytes()[: file["size"] // 2]
    part = tmp_path / f"{name}.{file['sha256'][:16]}.part"
    part.parent.mkdir()
    part.write_bytes(half)
    code, out, _ = call(store, "pull", run, tmp_path, "--only", "pool")
    assert code == 0
    sizes = [path.stat().st_size for path in (tmp_path / "pool").iterdir()]
    assert float(out.split(", ")[-1].split()[0]) * 1e6 == pytest.approx(sum(sizes) - len(half), abs=1e5)
    assert not part.exists()


def test_a_flipped_bit_in_any_file_is_found_by_name(store, reference, another_machine, tmp_path):
    run, dice = reference.folder.name, random.Random(7)
    found = {record.digest: record for stage in STAGES for record in records.find_all(store, stage)}
    manifest = manifests.load(store, run)
    published = {file.key: name for name, file in manifest.files.items() if file.key.startswith("runs/")}
    files = {file.key: file for record in found.values() for file in record.files.values()}
    rest = {f"artifacts/{record.stage}/{record.digest}/record.json" for record in found.values()}
    rest.add(f"runs/{run}/manifest.json")
    assert {entry.key for entry in store.list("artifacts/")} <= {*files, *rest}

    def look(key):
        """As a stage does, or ``pull``."""
        if key in files:
            records.read(store, files[key])
        elif key.startswith("runs/"):
            pull.pull(store, run, tmp_path / secrets.token_hex(4))
        else:
            records.find(store, *key.split("/")[1:3])

    for key in (*published, *files, *rest):
        data = bytearray(right := store.get(key))
        data[dice.randrange(len(data))] ^= 1
        store.put_bytes(key, bytes(data))
        another_machine()
        records._known.clear()
        with pytest.raises(WorldError, match=re.escape(f"{store.uri}/{key}")):
            look(key)
        store.put_bytes(key, right)
    assert {name.split("/")[0] for name in published.values()} == PUBLISHED


@pytest.mark.parametrize("name", ["results.json", "dataset/README.md"])
def test_a_flipped_bit_in_s3_is_found_by_name(store, reference, tmp_path, name):
    key = f"runs/{reference.folder.name}/{name}"
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    store.put_bytes(key, bytes(data))
    code, _, err = call(store, "pull", reference.folder.name, tmp_path / "out")
    assert (code, err.count("\n")) == (1, 1)
    assert f"error: {name} is not what the run wrote: {store.uri}/{key}" in err
    assert name not in content(tmp_path / "out")


def test_gc_in_s3_keeps_what_is_young(store):
    store.put_bytes(f"artifacts/unit/{'f' * 64}/resume", b"junk")
    assert call(store, "gc", "--older-than", "1h") == (0, "nothing to remove\n", "")


def test_gc_finds_what_a_killed_upload_left(s3_server, store, s3_uri):
    prefix = s3_uri.split("/", 3)[3]
    client, key = s3_server.client(), f"{prefix}/artifacts/unit/x"
    upload = client.create_multipart_upload(Bucket=s3_server.bucket, Key=key)["UploadId"]
    client.upload_part(Bucket=s3_server.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"0" * 5_000_000)
    assert garbage.find(store, older_than=3600.0).leftovers == []
    found = garbage.find(store, older_than=-60.0)  # as if a minute had passed
    (left,) = found.leftovers
    assert (left.key, left.size) == ("artifacts/unit/x", 5_000_000)
    nothing_else = garbage.Garbage([], [], [left], found.older_than)
    assert garbage.remove(store, nothing_else).leftovers == [left]
    assert not client.list_multipart_uploads(Bucket=s3_server.bucket).get("Uploads")


def test_a_bucket_that_is_not_there_is_one_sentence(store, tmp_path):
    nowhere = f"{store.uri.split('/')[2]}-nowhere"
    line = [COMMAND, "pull", "digits", tmp_path / "out", "--store", f"s3://{nowhere}/x"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert nowhere in done.stderr
