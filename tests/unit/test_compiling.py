"""Which work is compiled, and that it says so in its address."""

from types import SimpleNamespace

import pytest

from teddy_ray.errors import UserError
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.compiling import LEAST_FLOPS, compiled
from teddy_ray.pipeline.flops import flops
from teddy_ray.pipeline.settle import settle
from teddy_ray.spec import Spec, resolve


def context(choice, device="cpu"):
    spec = Spec().model_copy(
        update={"compute": Spec().compute.model_copy(update={"compile": choice, "device": device})}
    )
    return SimpleNamespace(spec=spec, real=SimpleNamespace(classes=10, size=(64, 64)))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_large_work_is_what_has_many_operations(device):
    each = flops("match", "resnet18", classes=10, size=64)
    enough = int(LEAST_FLOPS[device] / each) + 1
    assert compiled(context("large", device), "match", "resnet18", images=enough)
    assert not compiled(context("large", device), "match", "resnet18", images=enough - 1)
    assert not compiled(context("large", device), "look", "resnet18", images=enough)  # half the work
    assert compiled(context("always", device), "look", "convnet", images=1)
    assert not compiled(context("never", device), "match", "resnet18", images=10**12)


def test_what_is_compiled_has_an_address_of_its_own():
    spec = resolve("teddy", {}, {})
    units = {addresses.unit(spec, "data", ["a"], "u", [1], compiled=choice) for choice in (True, False)}
    shards = {addresses.label_shard(spec, "images", ["a"], (0, 1, 0, 1), compiled=choice) for choice in (True, False)}
    assert len(units | shards) == 4


def test_without_a_compiler_nothing_is_compiled_and_asking_for_it_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    assert settle(resolve("teddy", {}, {})).compute.compile == "never"
    with pytest.raises(UserError, match=r"compute.compile = 'always' needs a C\+\+ compiler"):
        settle(resolve("teddy", {}, {"compute.compile": "always"}))
