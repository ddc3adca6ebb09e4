"""A run's manifest is put last, and is true of what stands beside it, whoever else publishes there."""

import json

import pytest

from teddy_ray.errors import WorldError
from teddy_ray.pipeline.stages.report import TRIES, Publication
from teddy_ray.store import FolderStore, records

MANIFEST = "runs/a/manifest.json"


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path)


def publication(store, content):
    """Of one file, as an attempt that has ``content`` in its records would publish it."""
    file = records.commit(store, "labels", content.hex(), {"labels": content}, {}).files["labels"]
    return Publication("runs/a", {"labels": file}, json.dumps({"labels": file.sha256}).encode())


def standing(store):
    return store.get("runs/a/labels"), store.get(MANIFEST)


def test_equal_attempts_publish_once(store):
    one = publication(store, b"1")
    for _ in range(2):
        one.copy(store)
        one.finish(store)
    assert standing(store) == (b"1", one.manifest)


def test_until_the_manifest_is_put_there_is_none(store):
    old, new = publication(store, b"old"), publication(store, b"new")
    old.copy(store)
    old.finish(store)
    new.copy(store)
    assert store.head(MANIFEST) is None  # it would list other bytes
    new.finish(store)
    assert standing(store) == (b"new", new.manifest)


def test_the_later_attempt_publishes_over_another_of_other_bytes(store):
    one, other = publication(store, b"1"), publication(store, b"2")
    one.copy(store)
    other.copy(store)
    other.finish(store)
    one.finish(store)
    assert standing(store) == (b"1", one.manifest)


def test_a_missing_file_is_published_again(store):
    one = publication(store, b"1")
    one.copy(store)
    one.finish(store)
    store.delete("runs/a/labels")
    one.copy(store)
    assert standing(store) == (b"1", one.manifest)


def test_attempts_that_never_agree_are_told(tmp_path):
    class Contested(FolderStore):
        def put_if_absent(self, key, data):
            if key == MANIFEST:
                tries.append(key)
                self.put_bytes(key, b"another attempt's")
                return False
            return super().put_if_absent(key, data)

    tries = []
    store = Contested(tmp_path)
    one = publication(store, b"1")
    one.copy(store)
    with pytest.raises(WorldError, match=r"another attempt publishes other bytes in .*runs/a"):
        one.finish(store)
    assert len(tries) == TRIES
