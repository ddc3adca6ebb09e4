"""What cannot be done is refused in one line before anything is made; what the world breaks is told in one line too."""

import re
import shutil
import subprocess
import tomllib

import pytest
import torch
from PIL import Image

from teddy_ray.errors import WorldError
from teddy_ray.method.synthesis import Synthesis
from teddy_ray.pipeline import driver
from teddy_ray.spec import resolve
from teddy_ray.store import open_store


@pytest.fixture
def pictures(tmp_path):
    """A maker of image folders: class by class, so many pictures of a size."""

    def make(size, **classes):
        for split in ("train", "test"):
            for name, count in classes.items():
                folder = tmp_path / "pictures" / split / name
                folder.mkdir(parents=True)
                for index in range(count):
                    Image.new("RGB", (size, size), (index, 0, 0)).save(folder / f"{index}.png")
        return f"data.source=folder:{tmp_path / 'pictures'}"

    return make


SETTINGS = {
    "IPC 0": ("distill.ipc=0", r"distill\.ipc = 0"),
    "one class": ("data.classes=1", r"at least (2|two) classes"),
    "more images than there are": ("distill.ipc=41", r"distill\.ipc = 41 .* class '.' has 40"),
    "unknown key": ("distill.itrations=5", r"'distill\.itrations' \(did you mean 'distill\.iterations'\?\)"),
    "no such data": ("data.source=/no/such/place", r"there is no /no/such/place"),
    "no such base": ("base.checkpoint=no-such.safetensors", r"'no-such\.safetensors' cannot be read"),
    "replicas in one process": ("base.replicas=2", r"base\.replicas = 2 .* compute\.executor=ray"),
}


@pytest.mark.parametrize(("setting", "reason"), SETTINGS.values(), ids=SETTINGS)
def test_an_impossible_setting_is_refused(teddy_cloud, store, artifacts, setting, reason):
    assert_refused(teddy_cloud.run(store, "compute.executor=inline", setting), reason, store, artifacts)


def test_unreadable_data_is_refused(teddy_cloud, store, artifacts, tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    done = teddy_cloud.run(store, f"data.source={tmp_path / 'broken.parquet'}")
    assert_refused(done, r"broken\.parquet", store, artifacts)


def test_a_class_without_images_is_refused(teddy_cloud, store, artifacts, pictures):
    done = teddy_cloud.run(store, pictures(8, cats=50, dogs=0), "data.classes=2")
    assert_refused(done, "dogs", store, artifacts)


def test_images_of_one_pixel_are_refused(teddy_cloud, store, artifacts, pictures):
    done = teddy_cloud.run(store, pictures(1, cats=50, dogs=50), "data.classes=2")
    assert_refused(done, "1x1", store, artifacts)


def assert_refused(done, reason, store, artifacts):
    assert done.code == 2, done.err
    assert done.error().startswith("error: ")
    assert re.search(reason, done.error())
    assert not (store / "runs").exists()
    artifacts(store).check()


NOT_FINITE = {
    "base": ("base", "base.lr=1e6", r"base's loss .* base\.lr"),
    "distill": ("unit", "distill.class_weight=1e300", r"unit c0000-s000\d .* distill\.class_weight"),
}


@pytest.mark.parametrize("case", NOT_FINITE.values(), ids=NOT_FINITE)
def test_a_loss_that_is_no_number_ends_the_run(teddy_cloud, reference, store, case):
    stage, setting, reason = case
    artifacts = reference.copy_until("checkpoint" if stage == "base" else stage, store)
    assert_failed(teddy_cloud.run(store, "compute.executor=inline", setting), reason)
    assert not artifacts.records(stage)
    assert not list(store.glob("runs/*/manifest.json"))


def test_a_unit_whose_loss_becomes_no_number_keeps_no_state_to_go_on_from(teddy_cloud, reference, store, monkeypatch):
    artifacts, seen = reference.copy_until("unit", store), []

    def spoilt(synthesis):
        seen.append(artifacts.checkpoint("unit"))
        loss = step(synthesis)
        return loss if synthesis.iteration < 50 else type(loss)(*(part * torch.nan for part in loss))

    step = Synthesis.step
    monkeypatch.setattr(Synthesis, "step", spoilt)
    values = tomllib.loads(teddy_cloud.spec.read_text())
    overrides = {"compute.executor": "inline", "distill.checkpoint_seconds": 1e-6}
    tiny = resolve(values.pop("recipe"), values, overrides)
    with pytest.raises(WorldError, match="nothing of this unit was kept"):
        driver.run(tiny, open_store(str(store)), emit=lambda _: None)
    assert seen[-1]
    assert not artifacts.checkpoint("unit")


def test_a_loss_that_is_no_number_ends_a_ray_run(teddy_cloud, reference, store):
    artifacts = reference.copy_until("unit", store)
    stage, setting, reason = NOT_FINITE["distill"]
    assert_failed(teddy_cloud.run(store, "compute.executor=ray", "compute.workers=2", setting), reason)
    assert not artifacts.records(stage)


def test_changed_weights_are_named_and_made_anew_when_removed(teddy_cloud, reference, store):
    artifacts = reference.copy_until("member", store)
    (weights,) = (store / "artifacts" / "base").glob("*/*-weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = teddy_cloud.run(store)
    assert_failed(done, re.escape(str(weights.relative_to(store))))
    assert not artifacts.records("member")
    (told,) = re.findall(r"remove (\S+/record\.json)", done.error())
    (store / told).unlink()
    reference.assert_equal(teddy_cloud.results(store))


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of 4 MB, and what makes that disk larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=400m", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_the_run_and_a_larger_one_lets_it_go_on(teddy_cloud, reference, disk, artifacts):
    folder, enlarge = disk
    store = folder / "store"
    assert_failed(teddy_cloud.run(store), r"disk full at .* what is finished is kept")
    assert not list(store.glob("runs/*/manifest.json"))
    enlarge()
    results = teddy_cloud.results(store)
    assert "data" in results["reused"]["stages"]
    reference.assert_equal(results)
    artifacts(store).check()


def assert_failed(done, reason):
    assert done.code == 1, done.err
    assert done.error().startswith("error: ")
    assert re.search(reason, done.error())
