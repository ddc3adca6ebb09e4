"""Datasets under s3://: the same as on a disk, fetched once, verified, and named by their address where wrong."""

import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from teddy_ray.data import fingerprint, load
from teddy_ray.errors import UserError, WorldError
from teddy_ray.spec import DataSpec
from teddy_ray.store import cache
from teddy_ray.store.bucket import Bucket, Object


def picture(gray):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (gray,) * 3).save(stream, "PNG")
    return stream.getvalue()


def table(grays):
    stream = io.BytesIO()
    cells = [{"bytes": picture(gray), "path": None} for gray in grays]
    pq.write_table(pa.table({"image": cells, "label": [gray % 2 for gray in grays]}), stream)
    return stream.getvalue()


FOLDER = {
    f"{split}/{name}/{number} é.png": picture(100 * offset + number)
    for split, count in (("train", 5), ("val", 2))
    for offset, name in enumerate(("ant bee", "cat"))
    for number in range(count)
}
OTHERS = {"README.md": b"not an image", ".cache/x.png": b"hidden", "train/cat/notes.txt": b"?"}


@pytest.fixture
def upload(s3_server, s3_uri):
    """Puts files below an address of S3, and in a folder beside the tests; both places."""
    client, prefix = s3_server.client(), s3_uri.rpartition("/")[2]

    def put(files, folder=None):
        for name, data in files.items():
            client.put_object(Bucket=s3_server.bucket, Key=f"{prefix}/{name}", Body=data)
            if folder:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        return s3_uri

    return put


def assert_equal(one, other):
    for split in ("train", "test"):
        assert torch.equal(getattr(one, split).images, getattr(other, split).images)
        assert torch.equal(getattr(one, split).labels, getattr(other, split).labels)
    assert (one.class_names, one.flip, one.skipped) == (other.class_names, other.flip, other.skipped)


def test_an_image_folder_is_as_on_a_disk(upload, tmp_path):
    uri = upload(FOLDER | OTHERS, tmp_path / "local")
    there, here = load(DataSpec(source=f"folder:{uri}")), load(DataSpec(source=f"folder:{tmp_path / 'local'}"))
    assert_equal(there, here)
    assert there.class_names == ("ant bee", "cat")
    brought = {path.name for path in cache.folder().rglob("*") if path.is_file()}
    assert not brought & {"README.md", "x.png", "notes.txt"}  # what is not needed is not fetched


@pytest.mark.parametrize("name", ["", "/", "/train-0.parquet"])
def test_parquet_is_as_on_a_disk(upload, tmp_path, name):
    uri = upload({"train-0.parquet": table(range(20))}, tmp_path / "local")
    there = load(DataSpec(source=f"{uri}{name}"))
    assert_equal(there, load(DataSpec(source=f"parquet:{tmp_path / 'local'}{name}")))


def test_a_second_look_fetches_nothing_and_a_change_does(upload, s3_through):
    uri = upload(FOLDER)
    spec = DataSpec(source=f"folder:{uri}")
    with s3_through() as proxy:
        first, dataset = fingerprint(spec), load(spec)
        assert proxy.requests["GET"] >= len(FOLDER)
        proxy.requests.clear()
        assert_equal(load(spec), dataset)
        assert fingerprint(spec) == first
        assert proxy.requests.total() <= 4  # is it one file, what is below it; twice
        upload({"train/cat/0 é.png": picture(200)})
        assert fingerprint(spec) != first
        assert not torch.equal(load(spec).train.images, dataset.train.images)


def test_a_fetch_that_was_killed_goes_on_and_a_spoilt_copy_is_fetched_again(upload, s3_through):
    uri = upload(FOLDER)
    spec = DataSpec(source=f"folder:{uri}")
    dataset = load(spec)
    (index,) = cache.folder().rglob("index.jsonl")
    lines = [line for line in index.read_text().splitlines() if line]
    index.write_text("\n".join(lines[:-3]) + "\n" + lines[-3][:10])
    name, _ = json.loads(lines[0])
    (spoilt,) = index.parent.glob(f"*/{name}")
    spoilt.write_bytes(picture(255))
    os.utime(spoilt, (0, 0))
    with s3_through() as proxy:
        assert_equal(load(spec), dataset)
        assert proxy.requests["GET"] == 4 + 1  # with the list


def test_faults_on_the_way_do_not_matter(upload, s3_through, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 1000)
    uri = upload({"train-0.parquet": table(range(40)), "test-0.parquet": table(range(10))})
    dataset = load(DataSpec(source=uri))
    for path in cache.folder().rglob("index.jsonl"):
        path.unlink()
    with s3_through(seed=6, share=0.4) as proxy:
        assert_equal(load(DataSpec(source=uri)), dataset)
        assert proxy.injected.total() > 3


def test_what_is_wrong_is_named_by_its_address(upload):
    uri = upload({"train/a/0.png": picture(0), "train/b/0.png": b"no picture", "val/a/0.png": picture(1)})
    with pytest.raises(UserError, match=rf"{uri}/train/b/0\.png: the image is broken"):
        load(DataSpec(source=f"folder:{uri}"))
    uri = upload({"x.parquet": b"PAR1 and no more"})
    with pytest.raises(UserError, match=rf"{uri}/x\.parquet cannot be read as Parquet"):
        load(DataSpec(source=uri))


def test_bytes_that_are_not_those_of_the_etag_are_refused(upload, s3_through):
    uri = upload({"x.parquet": table(range(20))})
    with s3_through() as proxy:
        spoil = iter(b"ab")
        pass_on = proxy._pass_on

        def spoiling(request):
            answer = pass_on(request)
            if request.method == "GET" and request.path.endswith("x.parquet"):
                answer.body = answer.body[:-9] + bytes([next(spoil)]) + answer.body[-8:]
            return answer

        proxy._pass_on = spoiling
        with pytest.raises(WorldError, match=rf"{uri}/x\.parquet is damaged on its way"):
            load(DataSpec(source=uri))


def test_nothing_there_is_refused(s3_uri):
    for look in (load, fingerprint):
        with pytest.raises(UserError, match=rf"nothing at {s3_uri}/none that ends in \.parquet"):
            look(DataSpec(source=f"{s3_uri}/none"))
    with pytest.raises(UserError, match="s3://bucket/prefix"):
        load(DataSpec(source="s3://"))


@pytest.mark.parametrize("name", ["train/../../x.png", "train//x.png", "/x.png"])
def test_a_name_that_climbs_is_refused(s3_uri, monkeypatch, name):
    prefix = s3_uri.split("/", 3)[3]
    monkeypatch.setattr(Bucket, "list", lambda *_: iter([Object(f"{prefix}/{name}", 1, 0.0, "")]))
    with pytest.raises(UserError, match=rf"'{name}' cannot be a file's"):
        load(DataSpec(source=f"folder:{s3_uri}"))
    assert not list(cache.folder().rglob("*"))
