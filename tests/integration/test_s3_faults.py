"""The store in S3 over a network that resets, repeats, slows and breaks: nothing is lost, nothing is changed."""

import hashlib
import os
import random
from collections import Counter

import pytest
from faults import FAULTS

from teddy_ray.errors import WorldError
from teddy_ray.store import MissingKeyError, bucket, open_store, records, s3_client

FAULTS_WANTED = 1_000
MIB = 1 << 20


class Model:
    """Does to a store what it does to a dict, and compares."""

    def __init__(self, store, dice, folder):
        self.store, self.dice, self.folder = store, dice, folder
        self.there, self.done = {}, Counter()

    def step(self):
        verbs = (self.put_bytes, self.put_file, self.put_if_absent, self.get, self.get_range, self.head, self.list,
                 self.delete, self.copy)  # fmt: skip
        verb = self.dice.choice(verbs)
        verb(f"k{self.dice.randrange(8)}")
        self.done[verb.__name__] += 1

    def content(self):
        return self.dice.randbytes(self.dice.choice((0, 1, 100, 5_000, 70_000)))

    def put_bytes(self, key):
        self.there[key] = self.content()
        self.store.put_bytes(key, self.there[key])

    def put_file(self, key):
        self.there[key] = self.content()
        (self.folder / "file").write_bytes(self.there[key])
        self.store.put_file(key, self.folder / "file")

    def put_if_absent(self, key):
        data = b"the same" if self.dice.random() < 0.5 else self.content()
        assert self.store.put_if_absent(key, data) == (key not in self.there)
        self.there.setdefault(key, data)

    def get(self, key):
        if key in self.there:
            assert self.store.get(key) == self.there[key]
        else:
            with pytest.raises(MissingKeyError):
                self.store.get(key)

    def get_range(self, key):
        if key in self.there:
            start, length = self.dice.randrange(6_000), self.dice.randrange(6_000)
            assert self.store.get_range(key, start, length) == self.there[key][start : start + length]

    def head(self, key):
        entry = self.store.head(key)
        assert (entry and entry.size) == (len(self.there[key]) if key in self.there else None)

    def list(self, _):
        assert [(entry.key, entry.size) for entry in self.store.list("")] == [
            (key, len(data)) for key, data in sorted(self.there.items())
        ]

    def delete(self, key):
        self.store.delete(key)
        self.there.pop(key, None)

    def copy(self, key):
        if key in self.there:
            self.store.copy(key, "copied")
            self.there["copied"] = self.there[key]


def test_a_thousand_faults_lose_nothing_and_change_nothing(s3_uri, s3_through, tmp_path):
    with s3_through(seed=1, share=0.5) as proxy:
        model = Model(open_store(s3_uri), random.Random(2), tmp_path)
        while proxy.injected.total() < FAULTS_WANTED:
            model.step()
        proxy.share = 0.0
        for key, data in model.there.items():
            assert model.store.get(key) == data
        model.list("")
    assert set(proxy.injected) == set(FAULTS)
    assert min(proxy.injected.values()) > 30
    assert len(model.done) == 9


def test_records_committed_amid_faults_are_whole(s3_uri, s3_through, another_machine):
    store = open_store(s3_uri)
    with s3_through(seed=3, share=0.5) as proxy:
        contents = {f"{number:02x}": random.Random(number).randbytes(3_000) for number in range(20)}
        made = {
            digest: records.commit(store, "base", digest, {"a": data, "b": b"common"}, {})
            for digest, data in contents.items()
        }
        assert records.commit(store, "base", "00", {"a": b"too late"}, {}) == made["00"]
        proxy.share = 0.0
        another_machine()
        assert {record.digest: record for record in records.find_all(store, "base")} == made
        for digest, data in contents.items():
            assert records.read(store, made[digest].files["a"]) == data
        keys = {entry.key for entry in store.list("artifacts/") if not entry.key.endswith("/record.json")}
        assert keys == {file.key for record in made.values() for file in record.files.values()}


def test_large_files_survive_in_parts_and_blocks(s3_uri, s3_through, another_machine, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(bucket, "PART_BYTES", 5 * MIB)
    monkeypatch.setattr("teddy_ray.store.cache.BLOCK", 1 * MIB)
    store = open_store(s3_uri)
    (tmp_path / "large").write_bytes(os.urandom(11 * MIB))
    with s3_through(seed=4, share=0.4) as proxy:
        record = records.commit(store, "base", "00", {"large": tmp_path / "large"}, {})
        another_machine()
        assert records.path(store, record.files["large"]).read_bytes() == (tmp_path / "large").read_bytes()
        assert proxy.injected.total() > 3


def test_an_upload_that_fails_is_taken_back(s3_server, s3_uri, s3_through, monkeypatch):
    monkeypatch.setattr(bucket, "MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(bucket, "PART_BYTES", 5 * MIB)
    monkeypatch.setattr(s3_client, "PATIENCE_SECONDS", 0.0)
    with s3_through() as proxy:
        proxy.answers = lambda request: (500, "InternalError") if "partNumber=2" in request.path else None
        with pytest.raises(WorldError, match="large failed"):
            open_store(s3_uri).put_bytes("large", bytes(11 * MIB))
    client, prefix = s3_server.client(), s3_uri.rpartition("/")[2]
    assert client.list_multipart_uploads(Bucket=s3_server.bucket, Prefix=prefix).get("Uploads", []) == []
    assert client.list_objects_v2(Bucket=s3_server.bucket, Prefix=prefix)["KeyCount"] == 0


def test_the_answer_to_the_last_part_may_get_lost(s3_uri, s3_through, monkeypatch):
    monkeypatch.setattr(bucket, "MULTIPART_BYTES", 5 * MIB)
    monkeypatch.setattr(bucket, "PART_BYTES", 5 * MIB)
    data = os.urandom(6 * MIB)
    with s3_through(seed=5) as proxy:
        lost = iter(["reset after", "500 after"])
        draw = proxy._draw
        monkeypatch.setattr(
            proxy, "_draw", lambda r: next(lost, None) if r.method == "POST" and "uploadId" in r.path else draw(r)
        )
        store = open_store(s3_uri)
        store.put_bytes("large", data)
        assert hashlib.sha256(store.get("large")).digest() == hashlib.sha256(data).digest()
        assert next(lost, None) is None


@pytest.mark.parametrize("status_code", [(500, "InternalError"), (503, "SlowDown")])
def test_a_server_that_only_fails_is_one_clear_error(s3_uri, s3_through, monkeypatch, status_code):
    monkeypatch.setattr(s3_client, "PATIENCE_SECONDS", 1.5)
    with s3_through() as proxy:
        proxy.answers = lambda _: status_code
        with pytest.raises(WorldError, match=rf"s3://.*/a failed \({status_code[1]}\).*finished is kept"):
            open_store(s3_uri).get("a")


def test_a_server_that_comes_back_is_waited_for(s3_uri, s3_through):
    with s3_through() as proxy:
        store = open_store(s3_uri)
        store.put_bytes("a", b"1")
        down = iter(range(12))
        proxy.answers = lambda _: (503, "ServiceUnavailable") if next(down, None) is not None else None
        assert store.get("a") == b"1"
