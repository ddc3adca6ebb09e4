"""Models: each runs at every size, comes from its seed alone, prunes, and comes back from its state dict."""

import contextlib
import copy
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models as torchvision_models

from teddy_ray.errors import UserError
from teddy_ray.models import ARCHITECTURES, batchnorms, build, fit_to_state, load_state, parameters, prune
from teddy_ray.models.convnet import depth
from teddy_ray.models.pruning import kept_channels

CLASSES = 7
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
# The three deepest ones take seconds: tests/integration/test_models_deep.py.
PRUNED = ["convnet", "resnet18", "mobilenet_v2", "shufflenet_v2", "efficientnet_b0"]


@pytest.fixture(scope="module", params=PRUNED)
def pair(request):
    """A model with telling BatchNorms and biases, and its pruned copy."""
    model = build(request.param, CLASSES, 32)
    _scatter(model)
    return request.param, model, prune(model, 32, ratio=0.3, noise=0.3, seed=1)


def _outline(arch, size):
    """A model of shapes alone, which costs no initialisation."""
    with torch.device("meta"):
        return ARCHITECTURES[arch](CLASSES, size)


def _scatter(model):
    """Distinct values in all vectors, so that a channel can be recognised, and no layer is idle."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.dim() == 1:
                tensor.copy_(torch.randperm(len(tensor), generator=generator) / len(tensor) + 0.5)


def _images(count, size):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(9))


def _changed(state, key, change):
    return {**state, key: change(state[key])}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_runs_from_8_to_64_pixels(arch):
    for size in (8, 64):  # 32 is in the tests below
        model = _outline(arch, size)  # BatchNorm checks here too that training has two values a channel
        assert model.train()(torch.zeros(2, 3, size, size, device="meta")).shape == (2, CLASSES)
        assert size > 8 or model.eval()(torch.zeros(1, 3, size, size, device="meta")).shape == (1, CLASSES)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_norm_is_a_batchnorm2d_and_sees_a_map_at_32_pixels(arch):
    model = _outline(arch, 32)
    norms = [layer for layer in model.modules() if isinstance(layer, NORMS)]
    assert batchnorms(model) == norms
    seen = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda _, args: seen.append(min(args[0].shape[2:])))
    model(torch.zeros(2, 3, 32, 32, device="meta"))
    assert len(seen) == len(norms)
    assert min(seen) >= 2


@pytest.mark.parametrize(
    ("arch", "larger"),  # how much larger the last map is with the small stem
    [("resnet18", 4), ("densenet121", 4), ("mobilenet_v2", 2), ("shufflenet_v2", 4), ("efficientnet_b0", 2)],
)
def test_stem_is_torchvisions_from_96_pixels_and_keeps_the_size_below(arch, larger):
    network = {"shufflenet_v2": "shufflenet_v2_x1_0"}.get(arch, arch)
    small, large = _outline(arch, 95), _outline(arch, 96)
    with torch.device("meta"):
        theirs = torchvision_models.get_model(network, weights=None, num_classes=CLASSES)
    assert {k: v.shape for k, v in large.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert list(small.state_dict()) == list(theirs.state_dict())
    inputs = []
    for model in (small, large, theirs):
        batchnorms(model)[-1].register_forward_pre_hook(lambda _, args: inputs.append(args[0].shape[-1]))
        model.eval()(torch.zeros(1, 3, 64, 64, device="meta"))
    assert inputs[0] == larger * inputs[1] == larger * inputs[2]


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = build("convnet", CLASSES, 32, seed=3)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again, other = build("convnet", CLASSES, 32, seed=3), build("convnet", CLASSES, 32, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_convnet_is_the_fields():
    assert parameters(build("convnet", 10, 32)) == 320_010
    assert [depth(size) for size in (8, 16, 28, 32, 63, 64, 128, 224, 256)] == [3, 3, 3, 3, 3, 4, 5, 5, 6]
    assert all(size >> depth(size) >= 1 for size in range(8, 1025))


@pytest.mark.parametrize(("arch", "size"), [("resnet19", 32), ("resnet18", 7)])
def test_impossible_models_are_refused(arch, size):
    with pytest.raises(UserError, match="resnet"):
        build(arch, CLASSES, size)


def test_pruned_model_is_smaller_and_its_classes_stay(pair):
    _, model, pruned = pair
    assert parameters(pruned) < 0.75 * parameters(model)
    assert not pruned.training
    assert pruned(_images(1, 32)).shape == (1, CLASSES)
    assert copy.deepcopy(pruned).train()(_images(2, 32)).isfinite().all()


def test_pruned_model_is_the_whole_one_with_the_lost_channels_silenced(pair):
    _, model, pruned = pair
    silenced = copy.deepcopy(model).eval()
    narrow = dict(pruned.named_modules())
    with torch.no_grad():
        for name, layer in silenced.named_modules():
            if isinstance(layer, nn.BatchNorm2d | nn.Conv2d) and layer.bias is not None:
                lost = ~torch.isin(layer.bias, narrow[name].bias)
                layer.bias[lost] = 0
                layer.weight[lost] = 0
        expected, got = silenced(_images(4, 32)), pruned(_images(4, 32))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_pruned_state_dict_rebuilds_the_model_bit_for_bit(pair):
    arch, _, pruned = pair
    rebuilt = fit_to_state(build(arch, CLASSES, 32, seed=8), pruned.state_dict())
    assert rebuilt.training
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(_images(3, 32)), pruned(_images(3, 32)))


def test_pruning_leaves_its_model_and_the_global_generator_alone():
    model = build("mobilenet_v2", CLASSES, 32)
    model.features[0].requires_grad_(False)
    before, state = torch.random.get_rng_state(), copy.deepcopy(model.state_dict())
    pruned = prune(model, 32, ratio=0.5, noise=0.3, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert model.training
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    assert [p.requires_grad for p in pruned.parameters()] == [p.requires_grad for p in model.parameters()]


def test_noise_makes_members_differ_by_seed():
    model = build("convnet", CLASSES, 32)
    _scatter(model)

    def kept(noise, seed):
        return set(batchnorms(prune(model, 32, ratio=0.3, noise=noise, seed=seed))[0].bias.tolist())

    assert kept(0.0, 1) == kept(0.0, 2)
    assert kept(0.5, 1) == kept(0.5, 1)
    assert kept(0.5, 1) != kept(0.5, 2)
    assert len(kept(0.5, 1) & kept(0.0, 1)) > len(kept(10.0, 1) & kept(0.0, 1))  # magnitude still counts


def test_without_noise_the_weakest_channels_leave():
    model = build("convnet", CLASSES, 32)
    weak = torch.arange(0, 128, 4)
    with torch.no_grad():
        model.features[0][0].weight[weak] *= 0.01
        model.features[1][0].weight[:, weak] *= 0.01
        model.features[0][1].bias.copy_(torch.arange(128))
    pruned = prune(model, 32, ratio=0.25, noise=0.0, seed=0)
    assert set(range(128)) - set(pruned.features[0][1].bias.int().tolist()) == set(weak.tolist())


def test_kept_channels_are_few_but_never_none_and_round_where_wide():
    for channels in [*range(1, 200), 960, 2048]:
        for ratio in (0.001, 0.1, 0.3, 0.5, 0.9, 0.999):
            kept = kept_channels(channels, ratio)
            assert 1 <= kept <= max(1, channels - 1)
            assert abs(kept - channels * (1 - ratio)) <= (5 if channels >= 64 else 1)
    assert [kept_channels(n, 0.3) for n in (10, 63, 64, 128, 512)] == [7, 44, 48, 88, 360]


@pytest.mark.parametrize("arch", PRUNED)
def test_whole_state_dict_loads_too(arch):
    state = build(arch, CLASSES, 32, seed=1).state_dict()
    loaded = fit_to_state(build(arch, CLASSES, 32, seed=2), state).state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in loaded.items())


def test_state_dict_without_batch_counts_loads():
    state = build("convnet", CLASSES, 32, seed=1).state_dict()
    state = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    assert torch.equal(fit_to_state(build("convnet", CLASSES, 32), state).classifier.weight, state["classifier.weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != "bn1.bias"},
            ["'bn1.bias'", "absent in the state", "64 in the m"],
        ),
        (lambda s: {**s, "more": torch.zeros(2, 3)}, ["'more'", "2x3", "absent in the model"]),
        (lambda s: _changed(s, "fc.weight", lambda w: w.repeat(2, 1)), ["'fc.weight'", "14x512", "7x512"]),
        (lambda s: _changed(s, "fc.weight", lambda w: w[:5]), ["'fc.weight'", "5x512", "7x512"]),
        (lambda s: _changed(s, "fc.bias", lambda w: w[0]), ["'fc.bias'", "one number", "7 in"]),
        (lambda s: _changed(s, "conv1.weight", lambda w: w[..., :1]), ["'conv1.weight'", "64x3x3x1", "64x3x3x3"]),
        (lambda s: _changed(s, "conv1.weight", lambda w: w[:, :1]), ["'conv1.weight'", "64x1x3x3", "64x3x3x3"]),
        (lambda s: _changed(s, "bn1.bias", lambda w: w[:60]), ["'bn1.bias'", "60", "bn1.weight (64)"]),
        (lambda s: _changed(s, "layer1.0.conv1.weight", lambda w: w[:50]), ["'layer1.0.bn1.weight'", "64", "50"]),
        (lambda _: {}, ["'conv1.weight'", "absent in the state", "64x3x3x3"]),
    ],
)
def test_state_dict_that_does_not_fit_is_refused_by_key_and_shapes(change, words):
    model, state = _outline("resnet18", 32), _outline("resnet18", 32).state_dict()
    with pytest.raises(UserError) as refusal:
        fit_to_state(model, change(state))
    assert all(word in str(refusal.value) for word in words), refusal.value


def test_convnet_of_another_image_size_is_refused():
    with pytest.raises(UserError, match=r"'classifier\.weight' is 7x512 .* 7x2048 in the model"):
        fit_to_state(build("convnet", CLASSES, 32), build("convnet", CLASSES, 16).state_dict())


STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.count": torch.tensor(3)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "args": {"lr": 0.1}},
        {"model": STATE, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        {f"module.{key}": tensor for key, tensor in STATE.items()},
        {"state_dict": {f"_orig_mod.module.{key}": tensor for key, tensor in STATE.items()}},
    ],
    ids=["bare", "state_dict", "model", "DataParallel", "compiled"],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_torch_checkpoints_load_however_they_are_wrapped(tmp_path, content, suffix):
    torch.save(content, tmp_path / f"checkpoint{suffix}")
    _same(load_state(tmp_path / f"checkpoint{suffix}"))


def test_safetensors_load(tmp_path):
    save_file(STATE, tmp_path / "checkpoint.safetensors")
    _same(load_state(tmp_path / "checkpoint.safetensors"))


def _same(state):
    assert set(state) == set(STATE)
    assert all(torch.equal(state[key], tensor) for key, tensor in STATE.items())


class _Trap:
    """Unpickled, it opens a file for writing."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    path, target = tmp_path / "checkpoint.pt", tmp_path / "written"
    torch.save({**STATE, "trap": _Trap(target)}, path)
    with pytest.raises(UserError, match="save the model's state_dict"):
        load_state(path)
    assert not target.exists()
    torch.load(path, weights_only=False)["trap"].close()
    assert target.exists(), "the trap must be a live one"


@pytest.mark.parametrize("content", [[1, 2], {"layer.weight": "text"}, {"epoch": 3}, {}, {3: torch.zeros(1)}])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="state dict"):
        load_state(tmp_path / "checkpoint.pt")


def test_absent_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint file"):
        load_state(tmp_path / "absent.pt")
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(UserError, match=r"must end in \.safetensors, \.pt, \.pth"):
        load_state(tmp_path / "model.onnx")


@pytest.mark.filterwarnings("ignore")  # a damaged header can name an odd pickle protocol
@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.safetensors"])
def test_damage_is_refused_and_never_a_traceback(tmp_path, name):
    path = tmp_path / name
    torch.save(STATE, path) if path.suffix == ".pt" else save_file(STATE, path)
    whole, dice = path.read_bytes(), random.Random(0)
    for _ in range(100):
        path.write_bytes(whole[: dice.randrange(len(whole))])
        with pytest.raises(UserError, match="damaged"):
            load_state(path)
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):  # a flipped bit of a number goes unseen
            load_state(path)
