"""torch.compile: nearly the same numbers, the same bytes whoever compiles, and one graph for a pool."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.utils import counters

from teddy_ray import models
from teddy_ray.method.compiling import can_compile, compiled
from teddy_ray.method.labels import ensemble
from teddy_ray.method.matching import Teacher, Weights, eq7
from teddy_ray.method.statistics import frozen, head

pytestmark = pytest.mark.skipif(
    not can_compile(torch.device("cpu")), reason="there is no C++ compiler, or Python's headers are missing"
)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pool():
    """Three ConvNets of one shape that remember different things."""
    made = [models.build("convnet", 3, 8, seed=seed) for seed in range(3)]
    for seed, layer in enumerate(layer for model in made for layer in models.batchnorms(model)):
        layer.running_mean.copy_(numbers(len(layer.running_mean), seed=seed))
        layer.running_var.copy_(numbers(len(layer.running_var), seed=seed + 99).square() + 0.5)
    return [model.eval().requires_grad_(False) for model in made]


def test_a_pool_of_one_shape_shares_a_graph_that_computes_eq7(pool):
    x, y = numbers(6, 3, 8, 8), torch.arange(6) % 3
    weights, before = Weights(0.5, 2.0, 10.0, 0.1), counters["stats"]["unique_graphs"]
    for model in pool:
        teacher = Teacher(model, x[:2], class_means_KD=numbers(3, head(model).in_features))
        plain, fast = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
        expected, found = eq7(teacher, plain, y, weights), compiled(eq7)(teacher, fast, y, weights)
        expected.total.backward()
        found.total.backward()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fast.grad, plain.grad, rtol=1e-3, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == before + 1


def test_labels_of_a_compiled_ensemble_are_nearly_those_of_a_plain_one(pool):
    x, still = numbers(5, 3, 8, 8), [frozen(copy.deepcopy(model)) for model in pool]
    for average in ("logits", "probs"):
        plain = ensemble(pool, x, average=average)
        torch.testing.assert_close(ensemble(still, x, average=average, compiled=True), plain, rtol=1e-4, atol=1e-4)


def test_compiled_runs_have_one_answer_of_their_own(teddy_cloud, tmp_path):
    """With a cold cache and a warm one, in one process and in Ray's two workers."""
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    first = teddy_cloud.results(tmp_path / "one", "compute.compile=always", **cache)
    warm = teddy_cloud.results(
        tmp_path / "two", "compute.compile=always", "compute.executor=ray", "compute.workers=2", **cache
    )
    assert warm["digests"] == first["digests"]
    plain = teddy_cloud.results(tmp_path / "one", "compute.compile=never", "compute.executor=inline")
    assert plain["reused"] == {"stages": ["data", "base", "pool"], "units": []}  # though the bytes may well be equal


def test_cpus_of_other_vectors_can_share_a_cache(tmp_path):
    """What torch made for shorter vectors, run with longer ones, writes past the ends of tensors."""
    program = """
import torch
from torch._dynamo.utils import counters
from teddy_ray.method.compiling import compiled
compiled(torch.nn.functional.silu)(torch.ones(1000))
print(torch.backends.cpu.get_cpu_capability(), counters["inductor"]["fxgraph_cache_hit"])
"""

    def run(capability):
        variables = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run(
            [sys.executable, "-c", program], env=os.environ | variables, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    found = [run(capability) for capability in ("default", "default", "")]
    if found[0][0] == found[2][0]:
        pytest.skip("this CPU has no vectors that torch could do without")
    assert [hits for _, hits in found] == ["0", "1", "0"]
