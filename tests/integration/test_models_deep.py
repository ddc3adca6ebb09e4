"""The deep architectures, whose pruning takes seconds: a pruned one is the whole one without the lost channels."""

import pytest
import torch

from teddy_ray.models import batchnorms, build, fit_to_state, parameters, prune


@pytest.mark.parametrize("arch", ["resnet50", "resnet101", "densenet121"])
def test_deep_model_prunes_and_rebuilds(arch):
    model = build(arch, 7, 32).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for norm in batchnorms(model):
            distinct = torch.randperm(norm.num_features, generator=generator) / norm.num_features
            norm.bias.copy_(distinct)  # each names its channel
    images = torch.randn(2, 3, 32, 32, generator=generator)
    pruned = prune(model, 32, ratio=0.3, noise=0.3, seed=1)
    rebuilt = fit_to_state(build(arch, 7, 32, seed=8), pruned.state_dict()).eval()
    with torch.no_grad():
        got = pruned(images)
        assert torch.equal(rebuilt(images), got)
        for whole, narrow in zip(batchnorms(model), batchnorms(pruned), strict=True):
            lost = ~torch.isin(whole.bias, narrow.bias)
            whole.weight[lost] = 0
            whole.bias[lost] = 0
        expected = model(images)
    assert parameters(pruned) < 0.6 * parameters(model)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
