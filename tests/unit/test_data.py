"""Real datasets: sources, choosing, decoding, and what is refused with which words."""

import gc
import io
import json
import os
import sys
import threading
import urllib.error
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from teddy_ray.data import Dataset, fingerprint, load
from teddy_ray.data import decode as decode_module
from teddy_ray.data.dataset import hold_out
from teddy_ray.data.decode import BrokenImageError, decode, decode_all
from teddy_ray.errors import UserError, WorldError
from teddy_ray.spec import DataSpec

ROOT = Path(__file__).parents[2]
TINY_IMAGENET = Path(os.environ.get("TEDDY_TINY_IMAGENET", ROOT / "../shared/data/tiny-imagenet-200"))
NAMES = ("ant", "bee", "cat")


def encoded(value=0, *, height=8, width=8, format="PNG", mode="RGB", **options):
    """An image file's bytes, all of one gray ``value``."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (value,) * 3).convert(mode).save(stream, format, **options)
    return stream.getvalue()


def saved(image, format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def write_table(path, images, labels, *, names=NAMES, plain=False, row_group_size=None):
    """A Parquet file in the Hugging Face layout."""
    cells = images if plain else [{"bytes": image, "path": None} for image in images]
    kind = pa.binary() if plain else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {"image": {"_type": "Image"}, "label": {"names": names and list(names), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_arrays([pa.array(cells, kind), pa.array(labels, pa.int64())], schema=schema)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_images(root, counts, *, value=0, **options):
    """An image folder: ``counts`` images of each class, each of its own gray."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number:03}.png").write_bytes(encoded(value + number, **options))
    return root


def source(path, *, kind="parquet", **fields):
    return DataSpec(source=f"{kind}:{path}", **fields)


def refusal(spec):
    """The one sentence with which a dataset is refused."""
    with pytest.raises(UserError) as caught:
        load(spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


def grays(split):
    return split.images[:, 0, 0, 0].tolist()


def same(a: Dataset, b: Dataset):
    tensors = [(getattr(getattr(d, s), f)) for d in (a, b) for s in ("train", "test") for f in ("images", "labels")]
    return all(torch.equal(x, y) for x, y in zip(tensors[:4], tensors[4:], strict=True))


@pytest.fixture(scope="module")
def digits():
    return load(DataSpec())


# digits, choosing, holding out


def test_digits_are_whole_scaled_and_split_by_a_quarter(digits):
    assert digits.train.images.shape == (1347, 3, 8, 8)
    assert digits.test.images.shape == (450, 3, 8, 8)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.labels.dtype == torch.int64
    assert digits.class_names == tuple("0123456789")
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)
    assert torch.equal(digits.train.images[:, 0], digits.train.images[:, 2])
    assert digits.flip is False
    assert digits.skipped == 0


def test_digits_hold_out_is_stratified_and_fixed(digits):
    test, train = torch.bincount(digits.test.labels), torch.bincount(digits.train.labels)
    assert ((test / (test + train) - 0.25).abs() < 0.01).all()
    assert same(digits, load(DataSpec()))


def test_hold_out_is_golden():
    # Written down once: whoever changes the draw changes everybody's test sets, and must raise FORMAT.
    assert np.flatnonzero(hold_out(np.zeros(20, dtype=np.int64), [0], 0.25)).tolist() == [4, 7, 9, 15, 18]


def test_flip_is_the_sources_unless_set():
    assert load(DataSpec(classes=2, flip=True)).flip is True
    assert load(DataSpec(classes=2)).flip is False


def test_first_classes_and_named_classes_are_relabelled_in_their_order(digits):
    first, named = load(DataSpec(classes=2)), load(DataSpec(classes=("7", "3")))
    assert first.class_names == ("0", "1")
    assert set(first.train.labels.tolist()) == {0, 1}
    assert named.class_names == ("7", "3")
    assert torch.equal(named.train.images[named.train.labels == 0], digits.train.images[digits.train.labels == 7])
    assert torch.equal(named.test.images[named.test.labels == 1], digits.test.images[digits.test.labels == 3])


def test_per_class_takes_the_first_training_images_alone(digits):
    few = load(DataSpec(per_class=4))
    assert torch.bincount(few.train.labels).tolist() == [4] * 10
    for label in range(10):
        assert torch.equal(
            few.train.images[few.train.labels == label], digits.train.images[digits.train.labels == label][:4]
        )
    assert torch.equal(few.test.images, digits.test.images)


def test_hold_out_of_a_class_is_independent_of_the_others():
    labels = np.array([0, 1] * 20)
    both, one = hold_out(labels, [0, 1], 0.25), hold_out(labels, [1], 0.25)
    assert (both[labels == 1] == one[labels == 1]).all()
    assert both.sum() == 10
    assert one.sum() == 5


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (11, "has 10 classes"),
        (1, "at least 2"),
        (("3",), "at least 2"),
        (("3", "3"), "twice"),
        (("3", "x"), "named 'x'"),
    ],
)
def test_impossible_classes_are_refused(classes, said):
    assert said in refusal(DataSpec(classes=classes))


def test_unknown_class_is_told_the_nearest_name(tmp_path):
    path = write_table(tmp_path / "t.parquet", [encoded()] * 6, [0, 1, 2] * 2)
    message = refusal(source(path, classes=("ant", "cta")))
    assert "did you mean 'cat'" in message
    assert "has 3" in message


def test_size_resizes():
    big = load(DataSpec(classes=2, per_class=1, size=16))
    assert big.train.images.shape == (2, 3, 16, 16)


# the registry


@pytest.mark.parametrize(
    "text", ["digit", "/no/such/folder", "folder:/no/such", "folder:", "gs://bucket/key", "digits:x"]
)
def test_unknown_source_names_the_sources(text):
    message = refusal(DataSpec(source=text))
    assert text in message
    assert "folder:PATH" in message
    with pytest.raises(UserError):
        fingerprint(DataSpec(source=text))


def test_misspelt_source_is_told_the_nearest():
    assert "did you mean 'cifar10'" in refusal(DataSpec(source="cifar-10"))


# CIFAR


def test_cifar_from_disk_keeps_its_split_and_names(tmp_path, monkeypatch):
    from torchvision import datasets

    class Cifar:
        classes = ("plane", "car")

        def __init__(self, root, *, train, download):
            assert root == tmp_path
            assert download
            self.data, self.targets = np.full((4, 32, 32, 3), 7 if train else 9, np.uint8), [0, 1, 0, 1]

    monkeypatch.setenv("TEDDY_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "CIFAR10", Cifar)
    dataset = load(DataSpec(source="cifar10", per_class=1))
    assert dataset.class_names == ("plane", "car")
    assert dataset.flip
    assert grays(dataset.train) == [7, 7]
    assert grays(dataset.test) == [9] * 4


def test_cifar_out_of_reach_says_where_it_was_looked_for(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TEDDY_DATA", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    message = refusal(DataSpec(source="cifar100"))
    assert str(tmp_path / "cifar-100-python") in message
    assert "TEDDY_DATA" in message
    assert "no network" in message


# image folders


def test_folder_with_splits(tmp_path):
    write_images(tmp_path / "train", {"bee": 3, "ant": 2})
    write_images(tmp_path / "val", {"ant": 1, "bee": 1}, value=100)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    dataset = load(source(tmp_path, kind="folder"))
    assert dataset.class_names == ("ant", "bee")
    assert dataset.flip
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert grays(dataset.train) == [0, 1, 0, 1, 2]
    assert dataset.test.labels.tolist() == [0, 1]
    assert grays(dataset.test) == [100, 100]


def test_folder_without_splits_holds_a_fifth_of_each_class_out(tmp_path):
    write_images(tmp_path, {"ant": 10, "bee": 5})
    dataset = load(source(tmp_path, kind="folder"))
    assert torch.bincount(dataset.test.labels).tolist() == [2, 1]
    assert torch.bincount(dataset.train.labels).tolist() == [8, 4]
    ants = [set(grays(split)[: (split.labels == 0).sum()]) for split in (dataset.train, dataset.test)]
    assert ants[0] | ants[1] == set(range(10))
    assert not ants[0] & ants[1]


def test_folder_images_may_lie_deeper(tmp_path):
    write_images(tmp_path, {"ant/images": 2, "bee/images": 2})
    assert load(source(tmp_path, kind="folder")).class_names == ("ant", "bee")


def test_folder_class_of_the_test_split_alone_is_refused(tmp_path):
    write_images(tmp_path / "train", {"ant": 2, "bee": 2})
    write_images(tmp_path / "test", {"ant": 1, "bees": 1})
    assert "did you mean 'bee'" in refusal(source(tmp_path, kind="folder"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_folder_class_without_images_is_named(tmp_path, split):
    write_images(tmp_path / "train", {"ant": 2, "bee": 2})
    write_images(tmp_path / "val", {"ant": 1, "bee": 1})
    for image in (tmp_path / split / "bee").iterdir():
        image.unlink()
    message = refusal(source(tmp_path, kind="folder"))
    assert "'bee'" in message
    assert {"train": "training", "val": "test"}[split] in message


def test_folder_without_images_is_refused(tmp_path):
    assert "class folders" in refusal(source(tmp_path, kind="folder"))
    (tmp_path / "ant").mkdir()
    assert "no images" in refusal(source(tmp_path, kind="folder"))
    assert "folder:" in refusal(source(tmp_path))


def test_folder_test_without_train_is_refused(tmp_path):
    write_images(tmp_path / "test", {"ant": 2, "bee": 2})
    assert "no train/" in refusal(source(tmp_path, kind="folder"))


def test_unreadable_file_is_the_worlds_failure_even_with_skip_broken(tmp_path):
    write_images(tmp_path, {"ant": 4, "bee": 4})
    (tmp_path / "ant" / "999.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(WorldError, match=r"999\.png"):
        load(source(tmp_path, kind="folder", skip_broken=True))
    with pytest.raises(WorldError, match=r"999\.png"):
        fingerprint(source(tmp_path, kind="folder"))


# Parquet


@pytest.mark.parametrize("plain", [False, True])
def test_parquet_folder_of_splits_in_file_order(tmp_path, plain):
    images = [encoded(value) for value in range(10)]
    write_table(tmp_path / "data/train-00000-of-00002.parquet", images[:4], [0, 1, 2, 0], plain=plain, row_group_size=3)
    write_table(tmp_path / "data/train-00001-of-00002.parquet", images[4:7], [2, 1, 0], plain=plain)
    write_table(tmp_path / "data/validation-00000-of-00001.parquet", images[7:], [2, 1, 0], plain=plain)
    dataset = load(DataSpec(source=str(tmp_path)))
    assert dataset.class_names == NAMES
    assert grays(dataset.train) == list(range(7))
    assert dataset.train.labels.tolist() == [0, 1, 2, 0, 2, 1, 0]
    assert grays(dataset.test) == [7, 8, 9]
    assert dataset.test.labels.tolist() == [2, 1, 0]


def test_parquet_reads_only_what_is_chosen(tmp_path):
    # The other class's bytes are no image at all, so touching them would show.
    images = [encoded(value % 256) if value % 3 else b"broken" for value in range(600)]
    write_table(tmp_path / "train.parquet", images, [value % 3 for value in range(600)], row_group_size=500)
    write_table(tmp_path / "test.parquet", images[:3], [0, 1, 2])
    dataset = load(source(tmp_path, classes=("cat", "bee"), per_class=100))
    assert dataset.train.labels.tolist() == [1, 0] * 100
    assert grays(dataset.train) == [value % 256 for value in range(300) if value % 3]


def test_parquet_file_alone_is_split_deterministically(tmp_path):
    path = write_table(
        tmp_path / "anything.parquet", [encoded(value) for value in range(20)], [0, 1] * 10, names=NAMES[:2]
    )
    dataset = load(DataSpec(source=str(path)))
    assert torch.bincount(dataset.test.labels).tolist() == [2, 2]
    assert sorted(grays(dataset.train) + grays(dataset.test)) == list(range(20))
    assert same(dataset, load(DataSpec(source=str(path))))


def test_parquet_without_names_numbers_the_classes(tmp_path):
    path = write_table(tmp_path / "t.parquet", [encoded()] * 6, [0, 1, 2] * 2, names=None)
    assert load(source(path)).class_names == ("0", "1", "2")


def test_parquet_prefers_val_to_a_test_without_labels(tmp_path):
    write_table(tmp_path / "train.parquet", [encoded(1)] * 3, [0, 1, 2])
    write_table(tmp_path / "test.parquet", [encoded(2)] * 3, [-1] * 3)
    assert "label -1" in refusal(source(tmp_path))
    write_table(tmp_path / "val.parquet", [encoded(3)] * 3, [0, 1, 2])
    assert grays(load(source(tmp_path)).test) == [3] * 3


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        ([0, 1, 5, 1], NAMES, "row 2 has label 5"),
        ([0, 1, -1, 1], NAMES, "row 2 has label -1"),
        ([0, 1, None, 1], NAMES, "row 2 has no label"),
        ([0, 1, 0, 10**9], None, "row 3 has label 1000000000"),
        ([-1] * 4, None, "row 0 has label -1"),
        ([0, 1, 0, 1], NAMES, "class 'cat' has no training images"),
        ([0, 1, 2, 1, 0], NAMES, "class 'cat' has 1 image"),
        ([0] * 4, NAMES[:1], "at least 2 classes"),
        ([], NAMES, "no rows"),
    ],
)
def test_labels_that_make_no_dataset_are_refused(tmp_path, labels, names, said):
    path = write_table(tmp_path / "t.parquet", [encoded()] * len(labels), labels, names=names)
    assert said in refusal(source(path))


def test_class_without_test_images_is_named(tmp_path):
    write_table(tmp_path / "train.parquet", [encoded()] * 3, [0, 1, 2])
    write_table(tmp_path / "test.parquet", [encoded()] * 2, [0, 1])
    assert "'cat' has no test images" in refusal(source(tmp_path))
    assert load(source(tmp_path, classes=2)).class_names == ("ant", "bee")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [b""]}, "no column label"),
        ({"label": [0]}, "no column image"),
        ({"image": [b""], "label": ["ant"]}, "label is string"),
        ({"image": [1], "label": [0]}, "image is int64"),
    ],
)
def test_other_layouts_are_refused(tmp_path, columns, said):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert said in refusal(source(tmp_path / "t.parquet"))


def test_damaged_parquet_is_refused(tmp_path):
    path = write_table(tmp_path / "t.parquet", [encoded()] * 6, [0, 1, 2] * 2)
    path.write_bytes(path.read_bytes()[:-20])
    assert "t.parquet cannot be read as Parquet" in refusal(source(path))


def test_parquet_files_of_different_datasets_are_refused(tmp_path):
    write_table(tmp_path / "train-0.parquet", [encoded()] * 3, [0, 1, 2])
    write_table(tmp_path / "train-1.parquet", [encoded()] * 3, [0, 1, 2], names=("x", "y", "z"))
    assert "other class names" in refusal(source(tmp_path))


def test_parquet_test_without_train_is_refused(tmp_path):
    write_table(tmp_path / "test.parquet", [encoded()] * 3, [0, 1, 2])
    assert "none for training" in refusal(source(tmp_path))


# broken images and sizes


@pytest.mark.parametrize("broken", [b"", b"no image", encoded(9, height=64, width=64)[:-40], None])
def test_broken_image_is_named_or_counted(tmp_path, broken):
    path = tmp_path / "train.parquet"
    write_table(path, [encoded(1), encoded(2), broken, encoded(3)], [0, 1, 0, 1], names=NAMES[:2])
    write_table(tmp_path / "test.parquet", [broken, encoded(4), encoded(5)], [0, 0, 1], names=NAMES[:2])
    message = refusal(source(tmp_path))
    assert f"{path} row 2" in message
    assert "--skip-broken" in message
    dataset = load(source(tmp_path, skip_broken=True))
    assert dataset.skipped == 2
    assert grays(dataset.train) == [1, 2, 3]
    assert dataset.train.labels.tolist() == [0, 1, 1]
    assert grays(dataset.test) == [4, 5]
    assert dataset.test.labels.tolist() == [0, 1]


def test_class_of_broken_images_alone_is_refused(tmp_path):
    path = write_table(tmp_path / "t.parquet", [encoded(), b"x"] * 4, [0, 1] * 4, names=NAMES[:2])
    assert "'bee' has no training images that can be read (3" in refusal(source(path, skip_broken=True))


def test_images_of_two_sizes_need_a_size(tmp_path):
    write_images(tmp_path, {"ant": 2})
    write_images(tmp_path, {"bee": 2}, height=9, width=9)
    message = refusal(source(tmp_path, kind="folder"))
    assert "bee" in message
    assert "9x9" in message
    assert "8x8" in message
    assert "data.size" in message
    assert load(source(tmp_path, kind="folder", size=8)).train.images.shape[2:] == (8, 8)


def test_test_images_must_be_as_large_as_training_images(tmp_path):
    write_images(tmp_path / "train", {"ant": 2, "bee": 2})
    write_images(tmp_path / "val", {"ant": 2, "bee": 2}, height=16, width=16)
    assert "val" in refusal(source(tmp_path, kind="folder"))


@pytest.mark.parametrize(
    ("height", "width", "said"),
    [(1, 1, "are 1x1, and the smallest size is 8"), (7, 9, "smallest size"), (8, 12, "8x12, not square")],
)
def test_small_or_oblong_images_need_a_size(tmp_path, height, width, said):
    write_images(tmp_path, {"ant": 2, "bee": 2}, height=height, width=width)
    message = refusal(source(tmp_path, kind="folder"))
    assert said in message
    assert "data.size" in message
    assert load(source(tmp_path, kind="folder", size=32)).train.images.shape[2:] == (32, 32)


# decoding


def test_decoded_images_are_what_was_drawn():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    assert (decode(saved(Image.fromarray(pixels))) == pixels).all()


def test_gray_and_palette_become_rgb():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert (decode(saved(Image.fromarray(gray))) == gray[..., None]).all()
    red = Image.new("RGB", (8, 8), (200, 10, 20)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(saved(red))[0, 0].tolist() == [200, 10, 20]


def test_transparency_is_laid_on_white():
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half.putpixel((0, 0), (255, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 51))
    assert decode(saved(half))[0, :3].tolist() == [[255, 0, 0], [204, 204, 204], [255, 255, 255]]
    assert decode(saved(Image.new("LA", (8, 8), (0, 0))))[0, 0].tolist() == [255, 255, 255]
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([1, 2, 3, 4, 5, 6])
    palette.putpixel((0, 0), 1)
    assert decode(saved(palette, transparency=0))[0, :2].tolist() == [[4, 5, 6], [255, 255, 255]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_is_scaled_not_clipped(format):
    values = np.array([[0, 257, 32896, 65535, 65407]], dtype=np.uint16)
    assert decode(saved(Image.fromarray(values), format))[0, :, 1].tolist() == [0, 1, 128, 255, 255]


@pytest.mark.parametrize("values", [np.full((8, 8), 70000, np.int32), np.zeros((8, 8), np.float32)])
def test_gray_without_a_known_white_is_refused(values):
    with pytest.raises(BrokenImageError, match="no agreed white"):
        decode(saved(Image.fromarray(values), "TIFF"))


def test_cmyk_becomes_rgb():
    image = decode(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert image.shape == (8, 8, 3)
    assert image[0, 0, 0] > 240
    assert image[0, 0, 1:].max() < 15


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (12, 8))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right-hand column
    turned = decode(saved(image, exif=exif))
    assert turned.shape == (12, 8, 3)
    assert turned[0, 7, 0] == 255
    assert turned[0, 0, 0] == 0


def test_size_cuts_the_centre_square_before_resizing():
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255
    assert (decode(saved(Image.fromarray(pixels)), size=16) == 255).all()


def test_shrinking_is_antialiased():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[::2] = 255
    shrunk = decode(pixels, size=8).astype(int)
    assert (abs(shrunk - 127) < 20).all()


def test_decompression_bomb_is_broken(monkeypatch):
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 99)
    with pytest.raises(BrokenImageError, match="10x10"):
        decode(encoded(height=10, width=10))


def test_huge_header_is_broken_without_its_memory():
    bomb = bytearray(encoded(format="BMP"))
    bomb[18:26] = (60000).to_bytes(4, "little") * 2
    with pytest.raises(BrokenImageError):
        decode(bytes(bomb))


def test_formats_that_start_a_program_are_not_opened():
    with pytest.raises(BrokenImageError):
        decode(saved(Image.new("RGB", (8, 8)), "EPS"))


def test_a_dropped_decode_all_may_be_collected_in_one_of_its_own_threads(monkeypatch):
    told, dropped, collected = [], threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "unraisablehook", lambda seen: told.append(seen.exc_value))
    attempt = decode_module._attempt

    def collect(raw, *, size):
        if raw == b"second":
            dropped.wait(10)
            gc.collect()
            collected.set()
        return attempt(raw, size=size)

    def drop():
        images = [decode_all([encoded(), b"second"])]
        images.append(images)  # so that only the garbage collector finds it
        next(images[0])

    monkeypatch.setattr(decode_module, "_attempt", collect)
    gc.disable()
    try:
        drop()
        dropped.set()
        assert collected.wait(10)
    finally:
        gc.enable()
    assert told == []


def test_decode_all_keeps_the_order_over_windows(monkeypatch):
    monkeypatch.setattr(decode_module, "WINDOW", 3)
    images = list(decode_all(encoded(value) if value != 4 else b"" for value in range(10)))
    assert isinstance(images.pop(4), BrokenImageError)
    assert [int(image[0, 0, 0]) for image in images] == [0, 1, 2, 3, 5, 6, 7, 8, 9]


# the fingerprint


def test_fingerprint_follows_the_files_and_the_spec(tmp_path):
    write_images(tmp_path, {"ant": 2, "bee": 2})
    spec = source(tmp_path, kind="folder")
    seen = {fingerprint(spec), fingerprint(source(tmp_path, kind="folder", size=8))}
    assert fingerprint(spec) in seen
    assert len(seen) == 2
    image = tmp_path / "ant" / "000.png"
    for change in (
        lambda: os.utime(image, ns=(0, 1)),
        lambda: image.write_bytes(b"longer than nothing"),
        lambda: image.rename(image.with_name("aaa.png")),
        (tmp_path / "bee" / "001.png").unlink,
    ):
        change()
        seen.add(fingerprint(spec))
    assert len(seen) == 6


def test_fingerprint_decodes_nothing_and_ignores_what_is_not_loaded(tmp_path):
    write_table(tmp_path / "train.parquet", [b"broken"] * 3, [0, 1, 2])
    before = fingerprint(source(tmp_path))
    (tmp_path / "README.md").write_text("a card")
    assert fingerprint(source(tmp_path)) == before


def test_fingerprint_of_digits_is_the_specs():
    assert fingerprint(DataSpec()) == fingerprint(DataSpec())
    assert fingerprint(DataSpec()) != fingerprint(DataSpec(classes=2))
    assert len(fingerprint(DataSpec(source="cifar10"))) == 64


# the real thing


@pytest.mark.skipif(not TINY_IMAGENET.is_dir(), reason=f"no Tiny-ImageNet at {TINY_IMAGENET} (set TEDDY_TINY_IMAGENET)")
def test_tiny_imagenet():
    dataset = load(DataSpec(source=str(TINY_IMAGENET), classes=2, per_class=5))
    assert dataset.train.images.shape == (10, 3, 64, 64)
    assert dataset.test.images.shape == (100, 3, 64, 64)
    assert dataset.class_names == ("n01443537", "n01629819")
    assert dataset.flip
    assert dataset.train.labels.tolist() == [0] * 5 + [1] * 5
