"""A run's folder in the hands of whoever trains on it: any batch, any order, and a sentence where it is not whole."""

import dataclasses

import pytest
import torch

from teddy_ray import published
from teddy_ray.errors import UserError, WorldError
from teddy_ray.store import images, labels

COUNT, VIEWS, CLASSES = 6, 4, 5


@pytest.fixture
def folder(tmp_path):
    """Images in two files, labels in two: views 0 and 1, and the others."""
    dice = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (COUNT, 3, 8, 8), dtype=torch.uint8, generator=dice)
    classes = torch.arange(COUNT) % 2
    logits = torch.randn(COUNT * (VIEWS + 1), CLASSES, generator=dice)
    image, view = torch.arange(COUNT).repeat(VIEWS + 1), torch.arange(VIEWS + 1).repeat_interleave(COUNT)
    drawn = labels.Views(seed=3, crop_scale=0.3, flip=True, mix="cutmix", images=COUNT)
    (tmp_path / "dataset" / "data").mkdir(parents=True)
    (tmp_path / "labels").mkdir()
    for number, rows in enumerate((slice(0, 4), slice(4, 6))):
        data = images.to_parquet(pictures[rows], classes[rows], ["a", "b"])
        (tmp_path / "dataset" / "data" / f"train-{number:05d}-of-00002.parquet").write_bytes(data)
    for number, rows in enumerate((view < 2, view >= 2)):
        data = labels.to_parquet(image[rows], view[rows], logits[rows], views=drawn, bits=8)
        (tmp_path / "labels" / f"labels-{number:05d}-of-00002.parquet").write_bytes(data)
    return tmp_path


def test_a_view_is_the_same_in_any_batch_and_order(folder):
    run = published.load(folder)
    assert (len(run.images), run.views, run.classes.tolist()) == (COUNT, VIEWS, [0, 1] * 3)
    image, view = torch.arange(COUNT).repeat(VIEWS + 1), torch.arange(VIEWS + 1).repeat_interleave(COUNT)
    pictures, logits = run.batch(image, view=view)
    assert logits.shape == (COUNT * (VIEWS + 1), CLASSES)
    assert not torch.equal(pictures[:COUNT], pictures[COUNT : 2 * COUNT])
    shuffled = torch.randperm(len(image), generator=torch.Generator().manual_seed(0))
    for rows in shuffled.split(7):
        some, answers = run.batch(image[rows], view=view[rows])
        torch.testing.assert_close(some, pictures[rows], rtol=0, atol=1e-6)
        assert torch.equal(answers, logits[rows])
    some, answers = run.batch(torch.tensor([5, 2]), view=3)
    torch.testing.assert_close(some, pictures[3 * COUNT + torch.tensor([5, 2])], rtol=0, atol=1e-6)
    assert torch.equal(answers, logits[3 * COUNT + torch.tensor([5, 2])])


def test_a_mirrored_view_has_the_same_answer(folder):
    run, image = published.load(folder), torch.arange(COUNT)
    pictures, logits = run.batch(image, view=2)
    mirrored, same = run.batch(image, view=2, mirrored=True)
    assert torch.equal(mirrored, pictures.flip(3))
    assert torch.equal(same, logits)


@pytest.mark.parametrize(
    ("flip", "mirror", "seen"),
    [
        (True, True, [(1, False), (4, False), (1, True), (4, True), (1, False)]),
        (True, False, [(1, False), (4, False), (1, False), (4, False), (1, False)]),
        (False, True, [(1, False), (4, False), (1, False), (4, False), (1, False)]),
    ],
)
def test_what_the_runs_own_students_saw(folder, flip, mirror, seen):
    run = published.load(folder)
    drawn = dataclasses.replace(run.labels.views, flip=flip)
    run = dataclasses.replace(run, labels=dataclasses.replace(run.labels, views=drawn))
    assert [run.of_epoch(epoch, mirror=mirror) for epoch in (0, 3, 4, 7, 8)] == seen


@pytest.mark.parametrize(("image", "view"), [(COUNT, 1), (-1, 1), (0, VIEWS + 1), (0, -1)])
def test_what_is_not_there_is_an_index_error(folder, image, view):
    with pytest.raises(IndexError, match="0 to"):
        published.load(folder).batch(torch.tensor([image]), view=view)


def test_a_folder_that_is_none_or_not_whole_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="nowhere/dataset/data has no Parquet file"):
        published.load(tmp_path / "nowhere")
    last = folder / "labels" / "labels-00001-of-00002.parquet"
    last.rename(folder / "elsewhere")
    with pytest.raises(WorldError, match="labels has 1 files"):
        published.load(folder)
    last.write_bytes(b"PAR1")
    with pytest.raises(WorldError, match=r"labels-00001-of-00002\.parquet is damaged"):
        published.load(folder)
    (folder / "elsewhere").rename(last)
    for file in (folder / "dataset" / "data").iterdir():
        file.unlink()
    data = images.to_parquet(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ["a", "b"])
    (folder / "dataset" / "data" / "train-00000-of-00001.parquet").write_bytes(data)
    with pytest.raises(WorldError, match="2 images, and labels of 6"):
        published.load(folder)
