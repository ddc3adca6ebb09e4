"""The store in a folder and in S3, its records, and the files it holds."""

import errno
import hashlib
import json
import os
import pickle
import random
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from teddy_ray.errors import UserError, WorldError
from teddy_ray.store import (
    Entry,
    FolderStore,
    MissingKeyError,
    checkpoints,
    images,
    labels,
    open_store,
    records,
    tensors,
)
from teddy_ray.store.base import check_key
from teddy_ray.store.packed import pack
from teddy_ray.store.sealed import seal

WEIGHTS = b"weights" * 1000


@pytest.fixture
def folder(tmp_path):
    return FolderStore(tmp_path / "root")


@pytest.fixture(params=["folder", "s3"])
def store(request):
    """Either store."""
    return (
        request.getfixturevalue("folder")
        if request.param == "folder"
        else open_store(request.getfixturevalue("s3_uri"))
    )


def files_of(store):
    """Everything in the store; in a folder, temporary files too."""
    if isinstance(store, FolderStore):
        return sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())
    return [entry.key for entry in store.list("")]


def failing(error_number):
    def fail(*_args, **_options):
        raise OSError(error_number, os.strerror(error_number))

    return fail


# --- keys and verbs


@pytest.mark.parametrize("key", ["a", "runs/a-1/spec.json", "A_.=-9/..a", "artifacts/base/0f/record.json"])
def test_a_plain_key_is_taken(key):
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a b", "a~", "a\n", "é", "a\\b", "a:b"])
def test_a_bad_key_is_our_bug(store, key):
    for verb in (store.get, store.head, store.delete, store.local_path, lambda key: store.put_bytes(key, b"")):
        with pytest.raises(ValueError, match="bad key"):
            verb(key)


def test_what_is_put_is_there(store, tmp_path):
    (tmp_path / "file").write_bytes(b"of a file")
    store.put_bytes("a/b", b"bytes")
    store.put_file("a/c", tmp_path / "file")
    assert (store.get("a/b"), store.get("a/c")) == (b"bytes", b"of a file")


def test_a_folder_says_where_its_files_are(folder):
    folder.put_bytes("a/c", b"of a file")
    assert folder.local_path("a/c").read_bytes() == b"of a file"


def test_the_first_put_if_absent_wins_and_the_last_put_bytes(store):
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.get("a") == b"first"
    store.put_bytes("a", b"third")
    assert store.get("a") == b"third"
    assert files_of(store) == ["a"]


def test_a_range_ends_with_the_content(store):
    store.put_bytes("a", b"0123456789")
    assert [store.get_range("a", *where) for where in ((2, 3), (8, 9), (20, 1))] == [b"234", b"89", b""]


def test_head_knows_size_and_time_and_nothing_of_what_is_absent_or_a_folder(store):
    store.put_bytes("a/b", b"12345")
    entry = store.head("a/b")
    assert (entry.key, entry.size) == ("a/b", 5)
    assert entry.modified == pytest.approx(time.time(), abs=30)
    assert store.head("a") is None
    assert store.head("a/c") is None


@pytest.mark.parametrize("key", ["absent", "absent/too", "folder"])
def test_what_is_missing_is_named(store, key):
    store.put_bytes("folder/a", b"")
    for verb in (store.get, lambda key: store.get_range(key, 0, 1), lambda key: store.copy(key, "b")):
        with pytest.raises(MissingKeyError, match=f"no file .*{key}"):
            verb(key)
    assert files_of(store) == ["folder/a"]


def test_delete_may_be_repeated(store):
    store.put_bytes("a", b"")
    for _ in range(2):
        store.delete("a")
    assert store.head("a") is None


def test_list_gives_keys_that_begin_with_the_prefix_in_order(store):
    keys = ["a-b/c", "a.b", "a/b/c", "a/b2", "b/a"]
    for key in reversed(keys):
        store.put_bytes(key, key.encode())
    assert [entry.key for entry in store.list("")] == keys
    assert [entry.key for entry in store.list("a")] == keys[:4]
    assert [entry.key for entry in store.list("a/")] == ["a/b/c", "a/b2"]
    assert [entry.key for entry in store.list("a/b")] == ["a/b/c", "a/b2"]
    assert [entry.key for entry in store.list("c/d")] == []
    assert next(store.list("b")) == store.head("b/a")


def test_list_sees_finished_keys_only(folder):
    folder.put_bytes("a/b", b"")
    (folder.root / "a/~0123").write_bytes(b"left by a killed process")
    (folder.root / "a/my notes.txt").write_bytes(b"somebody's")
    (folder.root / "a/dangling").symlink_to("nowhere")
    assert [entry.key for entry in folder.list("")] == ["a/b"]
    assert all(isinstance(entry, Entry) for entry in folder.list(""))


def test_list_looks_at_no_more_than_is_asked_for(folder, monkeypatch):
    keys = ["a/1", "a-b/1", "a.b", "ab/1", "ab/c/2", "b/1"]
    for key in keys:
        folder.put_bytes(key, b"")
    looked, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(Path(path).name) or scan(path))
    assert [entry.key for entry in folder.list("ab")] == ["ab/1", "ab/c/2"]
    assert looked == [folder.root.name, "ab", "c"]
    looked.clear()
    assert next(folder.list("")).key == "a-b/1"
    assert looked == [folder.root.name, "a-b"]
    assert [entry.key for entry in folder.list("")] == sorted(keys)


@pytest.mark.parametrize("prefix", ["/a", "../a", "a/../", "a//"])
def test_a_bad_prefix_is_our_bug(store, prefix):
    with pytest.raises(ValueError, match="bad key"):
        store.list(prefix)


def test_copy_shares_bytes_yet_each_key_is_its_own(folder):
    folder.put_bytes("a", b"first")
    folder.put_bytes("b", b"in the way")
    for _ in range(2):  # the second time, both names are already one file
        folder.copy("a", "b")
    assert (folder.root / "a").samefile(folder.root / "b")
    folder.put_bytes("a", b"second")
    assert (folder.get("a"), folder.get("b")) == (b"second", b"first")
    assert files_of(folder) == ["a", "b"]


def test_copy_works_without_hard_links(folder, monkeypatch):
    folder.put_bytes("a", b"first")
    monkeypatch.setattr(os, "link", failing(errno.EMLINK))
    folder.copy("a", "b")
    assert folder.get("b") == b"first"
    assert files_of(folder) == ["a", "b"]


def test_files_have_the_rights_that_the_user_gives_new_files(folder):
    previous = os.umask(0o027)
    try:
        folder.put_bytes("a", b"")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((folder.root / "a").stat().st_mode) == 0o640


# --- opening


def test_a_store_opens_again_by_its_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    named = [open_store(name) for name in ("my store", "./my store", "~/my store", f"file://{tmp_path}/my%20store")]
    assert {store.uri for store in named} == {str(tmp_path / "my store")}
    monkeypatch.chdir("/")
    assert open_store(named[0].uri) == named[0]
    assert not (tmp_path / "my store").exists()  # the first write makes it


@pytest.mark.parametrize("uri", ["gs://bucket", "file://server/share", "file://", ""])
def test_only_folders_and_s3_can_be_opened(uri):
    with pytest.raises(UserError, match=r"folder.*s3://bucket/prefix"):
        open_store(uri)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3://my.bucket-1/a/b/"])
def test_an_s3_store_opens_again_by_its_uri_without_a_server(uri):
    store = open_store(uri)
    assert store.uri == uri.rstrip("/")
    assert open_store(store.uri) == store == pickle.loads(pickle.dumps(store))
    assert hash(store) == hash(open_store(store.uri))


@pytest.mark.parametrize("uri", ["s3://", "s3:///a", "s3://B", "s3://bu_cket/a", "s3://bucket/a b", "s3://bucket/a//b"])
def test_what_is_no_address_in_s3_is_refused(uri):
    with pytest.raises(UserError, match=r"s3://bucket/prefix|plain names"):
        open_store(uri)


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file is not a folder: name"):
        open_store(str(tmp_path / "file"))
    below = open_store(str(tmp_path / "file" / "below"))
    for verb in (lambda: below.put_bytes("a", b""), lambda: below.get("a"), lambda: below.head("a")):
        with pytest.raises(UserError, match="is a file where a folder must be"):
            verb()


def test_opening_a_store_is_cheap():
    code = "import sys, teddy_ray.store, teddy_ray.store.records; teddy_ray.store.open_store('s3://bucket/a'); "
    code += "print({'torch', 'pyarrow', 'PIL', 'boto3', 'botocore'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr


# --- the world gives way


@pytest.mark.parametrize(
    ("error_number", "kind", "sentence"),
    [
        (errno.ENOSPC, WorldError, "disk full at .*/a .*free space and run the same command again"),
        (errno.EDQUOT, WorldError, "disk full at .*/a .*free space"),
        (errno.EIO, WorldError, "/a failed: .*run the same command again"),
        (errno.EACCES, UserError, "no right to use .*/a .*choose another folder"),
        (errno.EROFS, UserError, "no right to use .*/a .*choose another folder"),
    ],
)
def test_a_failed_write_says_why_and_leaves_nothing(folder, monkeypatch, error_number, kind, sentence):
    folder.put_bytes("a", b"before")
    source = folder.local_path("source")
    source.write_bytes(b"after")
    for owner, name in ((os, "fsync"), (Path, "replace")):
        monkeypatch.setattr(owner, name, failing(error_number))
        for write in (lambda: folder.put_bytes("a", b"after"), lambda: folder.put_file("a", source)):
            with pytest.raises(kind, match=sentence) as caught:
                write()
            assert "\n" not in str(caught.value)
            assert files_of(folder) == ["a", "source"]
            assert folder.get("a") == b"before"
        monkeypatch.undo()


def test_a_failed_link_says_why_and_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(os, "link", failing(errno.ENOSPC))
    with pytest.raises(WorldError, match="disk full"):
        folder.put_if_absent("a", b"")
    assert files_of(folder) == []


def test_a_file_system_where_two_writers_could_win_is_refused(folder, monkeypatch):
    monkeypatch.setattr(os, "link", failing(errno.EOPNOTSUPP))
    with pytest.raises(UserError, match="no hard links"):
        folder.put_if_absent("a", b"")
    assert files_of(folder) == []


def test_a_link_whose_answer_was_lost_has_won_all_the_same(folder, monkeypatch):
    link = os.link

    def link_twice(*args, **options):
        link(*args, **options)
        link(*args, **options)

    monkeypatch.setattr(os, "link", link_twice)
    assert folder.put_if_absent("a", b"mine")
    monkeypatch.undo()
    assert not folder.put_if_absent("a", b"another's")


def test_an_interrupt_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        folder.put_bytes("a", b"")
    assert files_of(folder) == []


# --- records


def commit(store, **files):
    return records.commit(store, "base", "0f", files or {"weights": WEIGHTS}, {"accuracy": 98.2})


def test_a_commit_is_found_with_its_bytes(store, tmp_path):
    (tmp_path / "file").write_bytes(b"of a file")
    assert records.find(store, "base", "0f") is None
    record = records.commit(
        store, "base", "0f", {"weights": WEIGHTS, "log": tmp_path / "file"}, {"a": (1, 2), "b": {"c": None}}
    )
    assert records.find(store, "base", "0f") == record
    assert record.meta == {"a": [1, 2], "b": {"c": None}}  # as it is read back, not as it was given
    assert records.read(store, record.files["weights"]) == WEIGHTS
    assert records.read(store, record.files["log"]) == b"of a file"
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert record.files["weights"] == records.File(f"artifacts/base/0f/{sha256[:16]}-weights", len(WEIGHTS), sha256)
    assert list(store.list("artifacts/base/0f/record.json"))


def test_a_record_survives_json_and_equal_records_are_equal_bytes(store):
    record = commit(store, b=b"2", a=b"1")
    other = replace(record, files=dict(sorted(record.files.items())), meta=dict(record.meta))
    assert records.Record.from_json(record.to_json()) == record
    assert other.to_json() == record.to_json()
    assert json.loads(record.to_json())["format"] == 1


def test_the_first_commit_wins_and_the_loser_cleans_up(store):
    first = commit(store, weights=b"first", same=b"same")
    before = files_of(store)
    assert commit(store, weights=b"second", same=b"same") == first
    assert files_of(store) == before
    assert records.read(store, first.files["weights"]) == b"first"
    assert records.read(store, first.files["same"]) == b"same"


def test_a_commit_may_refer_to_a_file_of_another(store):
    base = commit(store)
    member = records.commit(store, "pool", "1f", {"weights": base.files["weights"], "statistics": b"s"}, {})
    assert member.files["weights"] == base.files["weights"]
    other = records.commit(store, "base", "1f", {"weights": b"other"}, {}).files["weights"]
    assert records.commit(store, "pool", "1f", {"weights": other}, {}) == member
    assert records.read(store, other) == b"other"  # the loser cleans up its own alone
    records.delete(store, member)
    assert records.find(store, "pool", "1f") is None
    assert list(store.list("artifacts/pool/")) == []
    assert records.read(store, base.files["weights"]) == WEIGHTS


def test_delete_leaves_neighbours(store):
    record = commit(store)
    neighbour = records.commit(store, "base", "0f1", {"weights": WEIGHTS}, {})
    records.delete(store, record)
    records.delete(store, record)
    assert list(records.find_all(store, "base")) == [neighbour]
    assert records.read(store, neighbour.files["weights"]) == WEIGHTS


def test_find_all_finds_the_records_of_one_stage(store):
    made = [records.commit(store, "base", digest, {"weights": WEIGHTS}, {}) for digest in ("0a", "0b")]
    records.commit(store, "base2", "0c", {}, {})
    assert list(records.find_all(store, "base")) == made


def test_half_an_artifact_is_not_found_and_is_made_at_the_next_try(folder, monkeypatch):
    monkeypatch.setattr(os, "link", failing(errno.ENOSPC))
    with pytest.raises(WorldError, match="disk full"):
        commit(folder)
    assert records.find(folder, "base", "0f") is None
    monkeypatch.undo()
    assert records.find(folder, "base", "0f") is None
    assert commit(folder) == records.find(folder, "base", "0f")


@pytest.mark.parametrize("tampered", [WEIGHTS[:-1], b"W" + WEIGHTS[1:], b""])
@pytest.mark.parametrize("take", [records.read, records.path])
def test_changed_bytes_are_noticed_and_can_be_made_again(store, another_machine, take, tampered):
    file = commit(store).files["weights"]
    another_machine()
    store.put_bytes(file.key, tampered)
    with pytest.raises(WorldError, match=rf"{file.key} has changed .*remove artifacts/base/0f/record\.json"):
        take(store, file)
    store.delete("artifacts/base/0f/record.json")
    commit(store)
    assert records.read(store, file) == WEIGHTS


@pytest.mark.parametrize("take", [records.read, records.path])
def test_missing_bytes_are_named(store, another_machine, take):
    file = commit(store).files["weights"]
    another_machine()
    store.delete(file.key)
    with pytest.raises(WorldError, match=f"no file .*{file.key}"):
        take(store, file)


def test_path_reads_the_bytes_once_and_again_when_they_may_have_changed(folder, monkeypatch):
    file = commit(folder).files["weights"]
    reads = []
    get_range = FolderStore.get_range
    monkeypatch.setattr(FolderStore, "get_range", lambda self, *where: reads.append(where) or get_range(self, *where))
    for _ in range(3):
        assert records.path(folder, file).read_bytes() == WEIGHTS
    assert len(reads) == 1
    (folder.root / file.key).write_bytes(b"W" + WEIGHTS[1:])
    os.utime(folder.root / file.key, (0, 0))
    with pytest.raises(WorldError, match="has changed"):
        records.path(folder, file)


@pytest.mark.parametrize("page", [1000, 2])
def test_what_is_made_among_many_is_found(store, monkeypatch, page):
    monkeypatch.setattr(records, "_PAGE", page)
    made = {digest: records.commit(store, "base", digest, {"weights": WEIGHTS}, {}) for digest in ("0a", "0b", "0c")}
    keys = records.keys_of(store, "base")
    assert keys is None or keys == {entry.key for entry in store.list("artifacts/base/")}
    for among in (keys, None):
        found = records.find_among(store, "base", ["0d", "0b", "0a", "0b"], keys=among)
        assert found == {"0b": made["0b"], "0a": made["0a"]}
        assert records.find_among(store, "base", [], keys=among) == {}
    assert records.find_among(store, "pool", ["0a"], keys=records.keys_of(store, "pool")) == {}


def test_what_another_process_has_seen_is_known_here(store):
    made = records.commit(store, "base", "0a", {"weights": WEIGHTS}, {})
    records.commit(store, "unit", "0b", {}, {})
    seen = records.seen(store, but={"unit"})
    assert seen == ([] if store.local_path("a") else [made.to_json()])
    records._known.clear()
    for data in seen:
        records.remember(store, data)
    assert records.seen(store) == seen
    assert records.find(store, "base", "0a") == made


def damaged_record(**changes):
    plain = {
        "stage": "base",
        "digest": "0f",
        "files": {},
        "meta": {},
        "created": "2026-01-01T00:00:00+00:00",
        "format": 1,
    }
    return seal({**plain, **changes})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        damaged_record()[:-5],
        damaged_record().replace(b"2026", b"2027"),
        damaged_record(format=2),
        damaged_record(extra=1),
        damaged_record(stage="pool"),
        damaged_record(files={"weights": {"key": "../../secret", "size": 1, "sha256": "0"}}),
        damaged_record(files={"weights": {"key": "a", "size": "1", "sha256": "0"}}),
        damaged_record(files={"weights": {"key": "a", "size": 1}}),
    ],
)
def test_a_damaged_record_is_named(store, data):
    store.put_bytes("artifacts/base/0e/record.json", damaged_record(digest="0e"))
    assert records.find(store, "base", "0e").files == {}
    store.put_bytes("artifacts/base/0f/record.json", data)
    with pytest.raises(WorldError, match=r"artifacts/base/0f/record\.json is damaged .*remove it") as caught:
        records.find(store, "base", "0f")
    assert str(caught.value).count("\n") == 0


def test_what_json_cannot_say_is_our_bug(store):
    with pytest.raises(ValueError, match="JSON"):
        records.commit(store, "base", "0f", {}, {"loss": float("nan")})
    for bad in ("a/b", "..", "a b"):
        with pytest.raises(ValueError, match="bad key"):
            records.commit(store, "base", "0f", {f"x{bad} ": b""}, {})


# --- tensors


STATE = {
    "weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last),
    "half": torch.tensor([1.5, float("inf")], dtype=torch.bfloat16),
    "transposed": torch.arange(6).reshape(2, 3).T,
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "flags": torch.tensor([True, False]),
}


def test_tensors_come_back_bit_for_bit():
    loaded = tensors.from_bytes(tensors.to_bytes(STATE))
    assert set(loaded) == set(STATE)
    for name, tensor in STATE.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_equal_tensors_are_equal_bytes_in_whatever_order_they_come():
    metadata = {str(i): "é" * i for i in range(9)}
    reverse = dict(reversed(metadata.items()))
    made = {tensors.to_bytes(dict(reversed(STATE.items())), reverse) for _ in range(5)} | {
        tensors.to_bytes({name: tensor.clone() for name, tensor in STATE.items()}, metadata)
    }
    assert len(made) == 1


def test_metadata_is_where_safetensors_has_it(tmp_path):
    from safetensors import safe_open

    (tmp_path / "a").write_bytes(tensors.to_bytes(STATE, {"arch": "convnet", "name": "é"}))
    with safe_open(tmp_path / "a", framework="pt") as opened:
        assert opened.metadata() == {"arch": "convnet", "name": "é"}
        assert torch.equal(opened.get_tensor("weight"), STATE["weight"])


def test_mapped_tensors_are_equal_and_private(tmp_path):
    data = tensors.to_bytes(STATE)
    (tmp_path / "a").write_bytes(data)
    mapped = tensors.open_mapped(tmp_path / "a")
    assert torch.equal(mapped["weight"], STATE["weight"])
    mapped["weight"].zero_()
    assert (tmp_path / "a").read_bytes() == data


class Planted:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_planted_pickle_is_refused_and_never_run(tmp_path):
    torch.save({"weight": Planted(tmp_path / "run")}, tmp_path / "zip")
    for data in (pickle.dumps(Planted(tmp_path / "run")), (tmp_path / "zip").read_bytes()):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(WorldError, match="weights is damaged or not safetensors"):
            tensors.from_bytes(data, name="weights")
        with pytest.raises(WorldError, match="a is damaged or not safetensors"):
            tensors.open_mapped(tmp_path / "a")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_comes_back_until_it_is_removed(store):
    assert checkpoints.load(store, "a/resume") is None
    checkpoints.remove(store, "a/resume")
    for value in (1, 2):
        checkpoints.save(store, "a/resume", {"x": torch.tensor(value)})
        assert checkpoints.load(store, "a/resume") == {"x": torch.tensor(value)}
    data = store.get("a/resume")
    store.put_bytes("a/resume", data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(WorldError, match=r"a/resume is damaged: remove it"):
        checkpoints.load(store, "a/resume")
    checkpoints.remove(store, "a/resume")
    assert store.head("a/resume") is None


# --- images


def picture_set(count=7, side=9):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(count) % 3, ("tench, Tinca tinca", "Ünïcode/../x", "猫")


def test_images_come_back_bit_for_bit(monkeypatch):
    monkeypatch.setattr(images, "GROUP", 3)
    pixels, classes, class_names = picture_set()
    data = images.to_parquet(pixels, classes, class_names)
    again, labels_again, names_again = images.from_parquet(data)
    assert again.dtype == torch.uint8
    assert again.is_contiguous()
    assert torch.equal(again, pixels)
    assert labels_again.dtype == torch.int64
    assert torch.equal(labels_again, classes)
    assert names_again == class_names
    assert images.to_parquet(pixels.to(memory_format=torch.channels_last), classes, list(class_names)) == data


def test_images_have_the_hugging_face_layout():
    pixels, classes, class_names = picture_set()
    table = pq.read_table(pa.BufferReader(images.to_parquet(pixels, classes, class_names)))
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(class_names)}}
    rows = table.to_pylist()
    assert [row["label"] for row in rows] == classes.tolist()
    assert all(row["image"]["bytes"].startswith(b"\x89PNG") for row in rows)
    assert [row["image"]["path"] for row in rows[:3]] == [
        "tench-tinca-tinca-00000.png",
        "n-code-x-00001.png",
        "class-00002.png",
    ]


def spoilt_png(data):
    table = pq.read_table(pa.BufferReader(data))
    cells = table.column("image").to_pylist()
    cells[1]["bytes"] = cells[1]["bytes"][:-100]
    stream = pa.BufferOutputStream()
    spoilt = table.set_column(0, table.schema.field(0), pa.array(cells, table.schema.field(0).type))
    pq.write_table(spoilt, stream)
    return stream.getvalue().to_pybytes()


def other_table(_):
    stream = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": [1], "logits": [2]}), stream)
    return stream.getvalue().to_pybytes()


def test_pictures_that_are_none_are_damage():
    data = images.to_parquet(*picture_set())
    for spoil in (spoilt_png, other_table, lambda data: data[:-9], lambda _: b"", lambda _: b"PAR1PAR1"):
        with pytest.raises(WorldError, match="set is damaged or not ours"):
            images.from_parquet(spoil(data), name="set")


# --- soft labels

PACKINGS = [(bits, top_k) for bits in (16, 8, 4) for top_k in (None, 1, 3, 4, 9)]
"""Of logits of four classes, so that nine are all."""


def drawn_views(num_images=5, **changes):
    return labels.Views(
        **{"seed": 7, "crop_scale": 0.5, "flip": True, "mix": "cutmix", "images": num_images, **changes}
    )


def soft_labels(num_images=5, num_views=3, num_classes=4):
    """Image, view and logits of every row."""
    rows = num_images * num_views
    generator = torch.Generator().manual_seed(0)
    image, view = torch.arange(num_images).repeat(num_views), torch.arange(num_views).repeat_interleave(num_images)
    return image, view, 3 * torch.randn(rows, num_classes, generator=generator)


def label_file(rows=None, **packing):
    return labels.to_parquet(*(rows or soft_labels()), views=drawn_views(), **packing)


def every_half(rows, num_classes):
    """Every kind of float16: subnormal, infinite, NaN."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (rows, num_classes), dtype=torch.int16, generator=generator)
    return bits.view(torch.float16)


def equal_bits(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


@pytest.mark.parametrize(("bits", "top_k"), PACKINGS)
def test_soft_labels_come_back_sorted_and_equal_rows_are_equal_bytes(monkeypatch, bits, top_k):
    monkeypatch.setattr(labels, "GROUP", 4)
    image, view, logits = soft_labels()
    shuffled = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    data = label_file((image, view, logits), bits=bits, top_k=top_k)
    assert label_file((image[shuffled], view[shuffled], logits[shuffled]), bits=bits, top_k=top_k) == data
    again = labels.from_parquet(data)
    assert (len(again), again.views) == (15, drawn_views())
    assert torch.equal(again.image, image)
    assert torch.equal(again.view, view)
    packed = pack(logits, bits=bits, top_k=top_k)
    for one, other in zip(vars(again.answers).values(), vars(packed).values(), strict=True):
        assert equal_bits(one, other) if isinstance(one, torch.Tensor) else one == other
    assert torch.equal(again.answers.logits(torch.tensor([3, 0])), packed.logits(torch.tensor([3, 0])))


def test_all_of_a_logits_16_bits_come_back():
    image, view, _ = soft_labels()
    logits = every_half(15, 4)
    assert equal_bits(labels.from_parquet(label_file((image, view, logits))).answers.values, logits)


def test_soft_labels_open_elsewhere(tmp_path):
    *_, logits = soft_labels()
    (tmp_path / "a.parquet").write_bytes(label_file())
    table = pq.read_table(tmp_path / "a.parquet")
    said = json.loads(table.schema.metadata[b"soft_labels"])
    assert said["views"] == {"seed": 7, "crop_scale": 0.5, "flip": True, "mix": "cutmix", "images": 5}
    assert table.schema.field("logits").type == pa.list_(pa.float16(), 4)
    frame = table.to_pandas()
    assert frame[["view", "image"]].to_numpy().tolist() == [[view, image] for view in range(3) for image in range(5)]
    assert np.stack(frame["logits"]).tobytes() == logits.half().numpy().tobytes()
    (tmp_path / "b.parquet").write_bytes(label_file(bits=8, top_k=2))
    assert {len(codes) for codes in pq.read_table(tmp_path / "b.parquet").to_pandas()["codes"]} == {2}


@pytest.mark.parametrize(("bits", "top_k"), PACKINGS)
def test_no_rows_are_rows_too(bits, top_k):
    image, view, logits = soft_labels()
    again = labels.from_parquet(label_file((image[:0], view[:0], logits[:0]), bits=bits, top_k=top_k))
    assert again.answers.logits(torch.tensor([], dtype=torch.long)).shape == (0, 4)


@pytest.mark.parametrize(("bits", "error"), [(16, 2**-9), (8, 0.5 / 255), (4, 0.5 / 15)])
@pytest.mark.parametrize("top_k", [None, 3])
def test_a_packed_row_is_the_logits_shifted(bits, error, top_k):
    """To half a step, where no logit lies so far below that it is cut off."""
    logits = torch.linspace(0, 1, 60)[torch.randperm(60, generator=torch.Generator().manual_seed(0))].view(15, 4)
    found = pack(logits, bits=bits, top_k=top_k).logits(torch.arange(15))
    kept = logits.sort(dim=1, descending=True).indices[:, : top_k or 4]
    below = logits - (logits.amax(dim=1, keepdim=True) if bits < 16 else 0)
    torch.testing.assert_close(found.gather(1, kept), below.gather(1, kept), rtol=0, atol=1.01 * error)


def test_classes_that_are_not_kept_share_their_mean():
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0], [0.0, 8.0, -1.0, -2.0]])
    found = pack(logits, top_k=1).logits(torch.arange(2))
    assert found.tolist() == [[5.0, 2.0, 2.0, 2.0], [-1.0, 8.0, -1.0, -1.0]]
    found = pack(logits, top_k=2).logits(torch.tensor([1]))
    assert found.tolist() == [[0.0, 8.0, -1.5, -1.5]]


def test_steps_cut_off_far_outliers_rather_than_be_coarse_for_all():
    logits = torch.zeros(1000, 10)
    logits[:, 1:] = -torch.rand(1000, 9, generator=torch.Generator().manual_seed(0))
    logits[0, 9] = -2.0
    packed = pack(logits, bits=4)
    assert float(packed.step[0]) == pytest.approx(1.0 / 15)
    assert float(packed.logits(torch.tensor([0]))[0, 9]) == pytest.approx(-1.0)


def test_more_than_256_classes_have_numbers_of_two_bytes():
    generator = torch.Generator().manual_seed(0)
    logits = torch.rand(3, 40_000, generator=generator)
    logits[torch.arange(3), torch.tensor([39_999, 0, 300])] = 9.0
    data = labels.to_parquet(torch.arange(3), torch.zeros(3, dtype=torch.long), logits, views=drawn_views(3), top_k=2)
    found = labels.from_parquet(data).answers.logits(torch.arange(3))
    assert found.argmax(dim=1).tolist() == [39_999, 0, 300]
    assert torch.equal(found.topk(2).indices, logits.topk(2).indices)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_cannot_be_packed(value):
    image, view, logits = soft_labels()
    logits[3, 1] = value
    for packing in ({"bits": 8}, {"top_k": 2}):
        with pytest.raises(WorldError, match="not finite"):
            label_file((image, view, logits), **packing)


def test_files_are_joined_to_every_view_of_every_image():
    image, view, logits = soft_labels()
    parts = [
        labels.from_parquet(label_file((image[rows], view[rows], logits[rows]), bits=8))
        for rows in (view == 2, (view < 2) & (image > 1), (view < 2) & (image < 2))
    ]
    whole = labels.joined(parts)
    assert (whole.view * 5 + whole.image).tolist() == list(range(15))
    for part in parts:  # each in steps of its own
        rows = part.view * 5 + part.image
        assert torch.equal(whole.answers.logits(rows), part.answers.logits(torch.arange(len(rows))))
    for wrong in (parts[:2], [*parts, parts[0]]):
        with pytest.raises(WorldError, match="every view of every image once"):
            labels.joined(wrong)
    for other in (replace(parts[0], views=drawn_views(seed=8)), labels.from_parquet(label_file(bits=16))):
        with pytest.raises(WorldError, match="not of one set"):
            labels.joined([other, *parts[1:]])


def test_logits_are_neither_in_a_dictionary_nor_without_checksums():
    data = label_file()
    described = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0)
    for index in range(described.num_columns):
        assert not any("DICTIONARY" in encoding for encoding in described.column(index).encodings)
    # flip a bit in the middle of the logits, the last and largest column
    logits = described.column(described.num_columns - 1)
    at = logits.data_page_offset + logits.total_compressed_size - 10
    with pytest.raises(WorldError, match=r"shard 3 is damaged .*CRC"):
        labels.from_parquet(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], name="shard 3")


def test_other_tables_are_not_soft_labels():
    with pytest.raises(WorldError, match="its columns are not those of soft labels"):
        labels.from_parquet(other_table(b""))
    with pytest.raises(WorldError, match="soft labels"):
        labels.from_parquet(images.to_parquet(*picture_set()))


def rewritten(data, *, columns=None, **said):
    """The file with other cells, or another description, by someone else."""
    table = pq.ParquetFile(pa.BufferReader(data)).read()
    for name, cells in (columns or {}).items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pa.array(cells, table.schema.field(name).type))
    told = json.loads(table.schema.metadata[b"soft_labels"])
    told |= {key: value for key, value in said.items() if key in told}
    told["views"] |= {key: value for key, value in said.items() if key not in told}
    stream = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({b"soft_labels": json.dumps(told)}), stream)
    return stream.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"classes": 300}, "its columns are not"),
        ({"bits": 16, "step": None}, "its columns are not"),
        ({"bits": 5}, "4, 8 or 16"),
        ({"top_k": 3}, "its columns are not"),
        ({"top_k": 4}, "the 4 largest of 4"),
        ({"step": None}, "its step is None"),
        ({"step": 0.0}, "greater than 0"),
        ({"images": 2}, "not in its set"),
        ({"images": "5"}, "valid integer"),
        ({"mix": "mixup"}, "none' or 'cutmix"),
        ({"hue": 0.5}, "Unexpected"),
        ({"columns": {"top": [b"\x00\x04"] * 15}}, "classes that it has not"),
        ({"columns": {"image": [-1] * 15}}, "not in its set"),
    ],
)
def test_a_description_that_does_not_fit_is_damage(said, reason):
    data = label_file(bits=8, top_k=2)
    assert len(labels.from_parquet(rewritten(data))) == 15
    with pytest.raises(WorldError, match=reason):
        labels.from_parquet(rewritten(data, **said))


@pytest.mark.parametrize(("bits", "name"), [(16, "view"), (16, "logits"), (8, "codes"), (8, "image")])
def test_empty_cells_are_damage(bits, name):
    data = label_file(bits=bits)
    cells = pq.read_table(pa.BufferReader(data)).column(name).to_pylist()
    with pytest.raises(WorldError, match="empty cells"):
        labels.from_parquet(rewritten(data, columns={name: [None, *cells[1:]]}))


@pytest.mark.parametrize(
    ("data", "take"),
    [
        (images.to_parquet(*picture_set()), images.from_parquet),
        (label_file(), labels.from_parquet),
        (label_file(bits=8, top_k=2), labels.from_parquet),
        (tensors.to_bytes(STATE, {"a": "b"}), tensors.from_bytes),
    ],
    ids=["images", "labels", "packed labels", "tensors"],
)
def test_whatever_bytes_are_damaged_it_is_said_in_a_sentence(data, take):
    dice = random.Random(0)
    refused = 0
    for _ in range(200):
        at = dice.randrange(len(data))
        spoilt = data[:at] + (b"" if dice.random() < 0.3 else bytes([dice.randrange(256)]) + data[at + 1 :])
        try:
            take(spoilt)
        except WorldError:
            refused += 1
    assert refused > 100
