"""What the benchmarks stand on: verdicts and files, the roofline's counts, and a reference that does what it says."""

import json

import pytest
import reference_sre2l as reference
import roofline
import torch
from tables import Row, save
from torch import nn

from teddy_ray import models

MACHINE = {"slug": "cpu", "device": "a CPU", "features": [], "cores": 2, "torch": "2", "python": "3"}
LOOK = reference.Look(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CPU = torch.device("cpu")


def row(name, ratio, **target):
    return Row(part="distill", name=name, ratio=ratio, unit="s", ours=1.0, reference=ratio, **target)


@pytest.mark.parametrize(
    ("ratio", "target", "verdict"),
    [
        (4.0, {"at_least": 4.0}, "met"),
        (3.99, {"at_least": 4.0}, "NOT MET"),
        (0.61, {"at_most": 0.6}, "NOT MET"),
        (float("nan"), {"at_least": 4.0}, "NOT MET"),
        (9.0, {}, ""),
    ],
)
def test_a_row_says_whether_its_target_is_met(ratio, target, verdict):
    assert row("step", ratio, **target).verdict == verdict


def test_what_is_measured_again_replaces_its_row_and_no_other(tmp_path):
    for rows in ([row("a", 1.0, at_least=2.0), row("b", 1.0)], [row("a", 3.0, at_least=2.0)]):
        stem = save(rows, machine=MACHINE, command="make bench", folder=tmp_path)
    kept = json.loads(stem.with_name(stem.name + ".json").read_text())["rows"]
    assert {found["name"]: (found["ratio"], found["verdict"]) for found in kept} == {"a": (3.0, "met"), "b": (1.0, "")}
    assert "| distill | a | ≥ 2 | 3 | met |" in stem.with_name(stem.name + ".md").read_text()


def test_the_roofline_counts_a_convolution():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU())
    read, written, weights = 2 * 3 * 16 * 16, 2 * 8 * 16 * 16, 8 * 3 * 9
    flops = 2 * 2 * 16 * 16 * weights
    assert roofline.asks("look", model, (2, 3, 16, 16), element=4) == (flops, 4 * (read + written + weights))
    match = roofline.asks("match", model, (2, 3, 16, 16), element=2)
    assert match == (2 * flops, 2 * (2 * (read + written + weights) + read))


def test_the_reference_recovers_labels_and_trains(tmp_path):
    """Two classes, one dark and one bright, from the base to a student on recovered images."""
    labels = [number % 2 for number in range(32)]
    shade = torch.tensor(labels).view(-1, 1, 1, 1) * 128
    noise = torch.randint(0, 128, (32, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    real = reference.decoded((noise + shade).to(torch.uint8))
    how = {"look": LOOK, "seed": 0, "device": CPU, "batch_size": 8}
    base = reference.squeeze(
        models.build("convnet", 2, 16), real, labels, epochs=3, lr=0.05, weight_decay=0.0, crop_scale=0.5, **how
    )
    settings = reference.RecoverSettings(iterations=30)
    recovery = reference.Recovery(base, torch.tensor([0, 1] * 4), look=LOOK, settings=settings, seed=0)
    losses = [recovery.step() for _ in range(settings.iterations)]
    assert min(losses[-5:]) < 0.8 * losses[0]
    recovery.close()
    images = reference.decoded(reference.recover(base, torch.tensor([0, 1] * 4), look=LOOK, settings=settings, seed=0))
    reference.relabel([base, base], images, tmp_path / "labels", epochs=2, crop_scale=0.5, **how)
    assert len(list((tmp_path / "labels").rglob("*.pt"))) == 2
    student = reference.train_student(
        models.build("convnet", 2, 16, seed=1), images, tmp_path / "labels", epochs=20, lr=0.003, weight_decay=0.0,
        temperature=4.0, label_seed=0, **how,
    )  # fmt: skip
    assert reference.accuracy(student, real, labels, look=LOOK, device=CPU) > 90.0
