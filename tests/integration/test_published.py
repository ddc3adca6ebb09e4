"""What a run publishes, in the hands of those who never heard of us: datasets, pandas, an image viewer, sha256sum."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from teddy_ray import published
from teddy_ray.errors import UserError
from teddy_ray.pipeline import driver
from teddy_ray.pipeline.events import STAGES
from teddy_ray.pipeline.stages import relabel
from teddy_ray.spec import Spec, resolve
from teddy_ray.store import open_store

SMALLEST = {
    "data.source": "digits", "data.classes": 3, "data.per_class": 20, "base.epochs": 1, "base.warmup_epochs": 0.0,
    "base.batch_size": 20, "pool.kind": "none", "pool.size": 0, "relabel.labellers": "base", "distill.match": "base",
    "distill.init": "real", "distill.iterations": 0, "distill.ipc": 2, "evaluate.seeds": 1, "evaluate.controls": [],
    "compute.device": "cpu", "compute.executor": "inline",
}  # fmt: skip


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The library, kept off the network and out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        import datasets

        yield datasets


@pytest.mark.parametrize("how", ["data_files", "card"])
def test_the_images_open_as_pictures_with_class_names(reference, datasets, tmp_path, how):
    folder = reference.folder / "dataset"
    places = {"data_files": ("parquet", {"data_files": str(folder / "data" / "*.parquet")}), "card": (str(folder), {})}
    path, more = places[how]
    loaded = datasets.load_dataset(path, split="train", cache_dir=str(tmp_path), **more)
    assert loaded.features["label"].names == ["0", "1", "2"]
    assert loaded["label"][:] == [0, 1, 2] * 4
    assert {(row["image"].size, row["image"].mode) for row in loaded} == {((8, 8), "RGB")}


def test_the_labels_open_as_a_table(reference):
    import pandas

    table = pandas.concat(pandas.read_parquet(path) for path in sorted((reference.folder / "labels").iterdir()))
    assert len(table) == 12 * 4  # every image: whole, and three views
    assert set(zip(table["image"], table["view"], strict=True)) == {(i, v) for i in range(12) for v in range(4)}
    assert {len(logits) for logits in table["logits"]} == {3}


def test_a_run_that_stores_no_labels_asks_for_the_same_ones(teddy_cloud, reference, tmp_path):
    reference.copy_until("labels", tmp_path / "store")
    settings = ("relabel.store=false", 'evaluate.regimes=["views", "fixed"]', "compute.executor=inline")
    found = teddy_cloud.results(tmp_path / "store", *settings)
    folder = Path(found["folder"])
    assert found["digests"] == {"images": reference.results["digests"]["images"]}
    assert not (folder / "labels").exists()
    assert not (tmp_path / "store" / "artifacts" / "labels").exists()
    assert "No soft labels are stored" in (folder / "dataset" / "README.md").read_text()
    losses, expected = _losses(folder), _losses(reference.folder)
    assert {key: losses[key] for key in expected} == {
        key: pytest.approx(loss, rel=0.02) for key, loss in expected.items()
    }
    assert set(losses) - set(expected) == {("distilled", "fixed"), ("random", "fixed")}
    with pytest.raises(UserError, match=r"relabel.store = false"):
        published.load(folder)
    again = teddy_cloud.results(tmp_path / "store", *settings)
    assert "evaluate" in again["reused"]["stages"]


def test_students_that_ask_others_are_made_anew(teddy_cloud, reference, tmp_path):
    reference.copy_until("labels", tmp_path / "store")
    asks = ("relabel.store=false", "compute.executor=inline", "evaluate.controls=[]")
    first = teddy_cloud.results(tmp_path / "store", *asks)
    for changed in ("relabel.labellers=base", "relabel.crop_scale=0.9", "relabel.views=2", "relabel.ensemble=probs"):
        other = teddy_cloud.results(tmp_path / "store", *asks, changed)
        assert other["digests"] == first["digests"]
        assert "evaluate" not in other["reused"]["stages"], changed


def test_a_runs_folder_opens_to_train_on(reference):
    run = published.load(reference.folder)
    assert (run.images.shape, run.views, run.class_names) == ((12, 3, 8, 8), 3, ("0", "1", "2"))
    assert run.classes.tolist() == [0, 1, 2] * 4
    pictures, logits = run.batch(torch.tensor([7, 0]), view=0)
    assert torch.equal(pictures, run.images[[7, 0]] / 255)
    assert logits.shape == (2, 3)


def test_students_read_a_view_from_the_file_that_has_it(tmp_path, monkeypatch):
    settings = {**SMALLEST, "relabel.views": 5, "evaluate.epochs": 7, "evaluate.regimes": ["views", "fixed"]}

    def losses(name, rows):
        """With as many rows at most in a file, and in how many files."""
        monkeypatch.setattr(relabel, "ROWS_A_SHARD", rows)
        driver.run(resolve("random", {}, settings), open_store(str(tmp_path / name)), emit=lambda _: None)
        (folder,) = (tmp_path / name / "runs").iterdir()
        return _losses(folder), len(list((folder / "labels").iterdir()))

    whole, files = losses("whole", 20_000)
    assert files == 1
    assert losses("parts", 12) == (whole, 3)  # two views of six images
    assert len(whole["distilled", "views"]) == 7


def test_only_images_that_may_be_mirrored_are(tmp_path):
    """Two views, five epochs: the third and the fourth show mirror images, where the dataset has them."""

    def losses(*, flip, mirror):
        settings = {**SMALLEST, "relabel.views": 2, "evaluate.epochs": 5, "evaluate.regimes": ["views"]}
        settings |= {"data.flip": flip, "evaluate.mirror_repeats": mirror}
        store = open_store(str(tmp_path / f"flip-{flip}"))
        found = driver.run(resolve("random", {}, settings), store, emit=lambda _: None)
        return [point["loss"] for point in found["students"][0]["curve"]]

    assert losses(flip=False, mirror=True) == losses(flip=False, mirror=False)
    mirrored, straight = losses(flip=True, mirror=True), losses(flip=True, mirror=False)
    assert mirrored[:2] == straight[:2]
    assert mirrored[2] != straight[2]


def _losses(folder):
    """Of the first student of each set and regime, after each epoch."""
    students = json.loads((folder / "results.json").read_text())["students"]
    return {(one["set"], one["regime"]): [point["loss"] for point in one["curve"]] for one in students}


def test_the_manifest_names_every_file_with_its_bytes_and_every_record(reference):
    manifest = json.loads((reference.folder / "manifest.json").read_text())
    there = {path.relative_to(reference.folder).as_posix() for path in reference.folder.rglob("*") if path.is_file()}
    on_the_way = {name for name in there if name.startswith(("events/", "records/"))}
    pool = {"pool/base.safetensors", "pool/post-0000.safetensors", "pool/post-0001.safetensors"}
    assert set(manifest["files"]) == there - on_the_way - {"manifest.json", "contact-sheet.png"} | pool
    for name, file in manifest["files"].items():
        content = (reference.store / file["key"]).read_bytes()
        assert (file["sha256"], file["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
        assert name in pool or reference.store / file["key"] == reference.folder / name
    made = {path.relative_to(reference.store).as_posix() for path in reference.store.glob("artifacts/*/*/record.json")}
    # The base's checkpoints are no members here, and so no part of the run.
    assert set(manifest["records"]) == {name for name in made if not name.startswith("artifacts/checkpoint/")}


def test_a_run_carried_out_again_leaves_what_it_published_as_it_is(teddy_cloud, reference, tmp_path):
    shutil.copytree(reference.store, tmp_path / "store")
    folder = tmp_path / "store" / "runs" / reference.folder.name
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "report" / "index.html").unlink()
    teddy_cloud.results(tmp_path / "store", "compute.executor=inline")
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path for path in before if after[path] != before[path]} == set()
    assert {path.relative_to(folder).parts[:2] for path in set(after) - set(before)} == {("events", "0002")}


def test_the_spec_reloads_to_the_digest_that_all_files_name(reference):
    spec = Spec.from_json((reference.folder / "spec.json").read_bytes())
    manifest = json.loads((reference.folder / "manifest.json").read_text())
    results = json.loads((reference.folder / "results.json").read_text())
    assert spec.digest == manifest["spec_digest"] == results["spec_digest"]
    assert manifest["run"] == results["run"] == reference.folder.name
    assert results["run"].endswith(spec.digest[:8])


def test_the_command_prints_what_the_results_file_says(reference):
    results = json.loads((reference.folder / "results.json").read_text())
    assert set(reference.results) == {"run", "folder", "digests", "scores", "seconds", "reused"}
    for name in set(reference.results) - {"seconds"}:
        assert reference.results[name] == results[name]
    # A file cannot say how long it took to write itself.
    assert reference.results["seconds"].keys() - results["seconds"].keys() == {"report"}
    assert reference.results["seconds"].items() >= results["seconds"].items()


def test_the_images_digest_is_the_sha256_of_the_file(reference):
    (path,) = (reference.folder / "dataset" / "data").iterdir()
    assert reference.results["digests"]["images"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_contact_sheet_shows_every_unit(reference):
    with Image.open(reference.folder / "contact-sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert len(sheet.convert("RGB").getcolors(maxcolors=1 << 20)) > 2
        assert sheet.height > 4 * 8


def test_the_events_tell_of_every_stage_in_order(reference):
    files = sorted((reference.folder / "events" / "0001").glob("0*.jsonl"))
    events = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    for kind in ("stage_started", "stage_done"):
        assert [event["stage"] for event in events if event["kind"] == kind] == list(STAGES)
    finished = [event for event in events if event["kind"] == "task_done"]
    assert len([event for event in finished if event["stage"] == "distill"]) == 4
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
