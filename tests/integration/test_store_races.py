"""The store when many processes write at once, and when the disk is full; and our images in other people's hands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from teddy_ray.errors import WorldError
from teddy_ray.store import FolderStore, records

ROOT = Path(__file__).parents[2]
WRITERS, ROUNDS = 16, 10
WRITER = """
import json, sys
from teddy_ray.store import open_store, records

store, rank = open_store(sys.argv[1]), int(sys.argv[2])
mine = bytes([rank]) * 300_000
print("ready", flush=True)
for line in sys.stdin:  # the number of a round, to all writers at once
    won = store.put_if_absent(f"keys/{int(line)}", mine)
    content = store.get(f"keys/{int(line)}")
    files = {"own": mine, "common": b"common", "pair": bytes([rank % 2])}
    record = records.commit(store, "base", f"{int(line):04x}", files, {"rank": rank})
    own = [records.read(store, record.files[name]) for name in files][0]
    seen = {"won": won, "got": [content[0], len(set(content)), len(content)], "own": own[0]}
    print(json.dumps({**seen, "record": record.to_json().decode()}), flush=True)
"""


@pytest.fixture
def writers(tmp_path):
    """Processes that wait for the first round's number."""
    command = [sys.executable, "-c", WRITER, tmp_path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen([*command, str(rank)], **pipes) for rank in range(WRITERS)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * WRITERS
    yield processes
    for process in processes:
        process.communicate(timeout=60)


def tell(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def test_of_many_writers_one_wins_and_all_get_its_content(writers, tmp_path):
    store = FolderStore(tmp_path)
    expected = []
    for i in range(ROUNDS):
        for writer in writers:
            tell(writer, i)
        seen = [json.loads(writer.stdout.readline()) for writer in writers]
        (winner,) = [rank for rank in range(WRITERS) if seen[rank]["won"]]
        record = records.find(store, "base", f"{i:04x}")
        for answer in seen:
            assert answer["got"] == [winner, 1, 300_000]
            assert answer["record"] == record.to_json().decode()
            assert answer["own"] == record.meta["rank"]
        expected += [f"keys/{i}", f"artifacts/base/{i:04x}/record.json", *(file.key for file in record.files.values())]
    found = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(found) == sorted(expected)  # no loser's file, no temporary one


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_said_and_nothing_half_written_stays(small_disk, tmp_path):
    store = FolderStore(small_disk / "root")
    small = records.commit(store, "base", "00", {"weights": b"small"}, {})
    before = sorted(entry.key for entry in store.list(""))
    big = os.urandom(400_000)
    (tmp_path / "big").write_bytes(big)
    for write in (
        lambda: store.put_bytes("big", big),
        lambda: store.put_file("big", tmp_path / "big"),
        lambda: store.put_if_absent("big", big),
        lambda: records.commit(store, "base", "01", {"weights": big}, {}),
    ):
        with pytest.raises(WorldError, match=r"disk full at .*free space and run the same command again"):
            write()
        assert records.find(store, "base", "01") is None
        left = sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())
        assert left == before
    assert records.read(store, small.files["weights"]) == b"small"
    store.put_bytes("fits", big[:100_000])  # the failures gave their space back


def test_a_killed_writer_leaves_no_key(tmp_path):
    code = (
        "import os, signal, sys; from teddy_ray.store import open_store\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_store(sys.argv[1]).put_if_absent('a/b', b'x' * 100_000)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False, cwd=ROOT)
    assert list(tmp_path.rglob("~*"))
    store = FolderStore(tmp_path)
    assert list(store.list("")) == []
    assert store.put_if_absent("a/b", b"whole")


def test_load_dataset_shows_pictures_and_class_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets
    import numpy as np
    import torch

    from teddy_ray.store import images

    pixels = torch.randint(0, 256, (5, 3, 8, 12), dtype=torch.uint8)
    (tmp_path / "images.parquet").write_bytes(images.to_parquet(pixels, torch.tensor([1, 0, 1, 0, 0]), ["cat", "dog"]))
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "images.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.features["label"].names == ["cat", "dog"]
    assert loaded["label"][:] == [1, 0, 1, 0, 0]
    for row, image in zip(loaded, pixels, strict=True):
        assert row["image"].mode == "RGB"
        assert np.array_equal(np.asarray(row["image"]), image.permute(1, 2, 0).numpy())
