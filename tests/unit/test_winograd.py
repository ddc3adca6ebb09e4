"""Winograd's convolutions: conv2d's numbers, nearly, in every direction; one answer for any number of threads."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from teddy_ray import models
from teddy_ray.errors import UserError, WorldError
from teddy_ray.method import winograd
from teddy_ray.method.compiling import can_compile, compiled
from teddy_ray.method.optimisation import place, threads
from teddy_ray.method.winograd import WinogradConv2d, convolution, filter_gradient, with_winograd
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.settle import settle
from teddy_ray.spec import resolve

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not can_compile(CPU), reason="there is no C++ compiler, or no Python headers")


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer(channels=16, outputs=24, **options):
    torch.manual_seed(0)
    return nn.Conv2d(channels, outputs, 3, padding=1, **options)


def graded(model, x, y_grad):
    """The output, and the gradients of the image and of all parameters."""
    x = x.clone().requires_grad_(True)
    y = model(x)
    y.backward(y_grad.to(y.dtype))
    return [y.detach(), x.grad, *(parameter.grad for parameter in model.parameters())]


@needs_compiler
@pytest.mark.parametrize("side", [(16, 16), (7, 7), (14, 13), (4, 64), (1, 300)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_it_is_conv2d_in_every_direction(side, memory):
    direct, fast = layer(), with_winograd(nn.Sequential(layer()))
    x, y_grad = numbers(9, 16, *side).to(memory_format=memory), numbers(9, 24, *side, seed=1)
    exact = graded(direct.double(), x.double(), y_grad)
    weight, bias = (parameter.detach().float() for parameter in direct.parameters())
    found_y = convolution(x, weight) + bias[:, None, None]
    found_x = convolution(y_grad, weight.flip(2, 3).transpose(0, 1))
    found_weight = filter_gradient(x, y_grad)
    assert found_y.shape == conv2d(x, weight, padding=1).shape
    # The operators themselves, then the layer, which sends small maps the direct way.
    for found, expected in zip([found_y, found_x, found_weight], exact[:3], strict=True):
        assert (found - expected).abs().max() < 1e-4 * expected.std()
    for found, expected in zip(graded(fast, x, y_grad), exact, strict=True):
        assert (found - expected).abs().max() < 1e-4 * expected.std()


@needs_compiler
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_of_bfloat16_images_sums_stay_float32(memory):
    """As under autocast: images come in and go out in bfloat16, the weights' gradient is float32."""
    direct, fast = layer(), with_winograd(nn.Sequential(layer()))
    x, y_grad = (numbers(9, count, 13, 14, seed=count).to(torch.bfloat16) for count in (16, 24))
    x, y_grad = x.to(memory_format=memory), y_grad.to(memory_format=memory)
    exact = graded(direct.double(), x.double(), y_grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, *gradients = graded(fast, x.float(), y_grad)
    assert [found.dtype for found in (y, *gradients)] == [torch.bfloat16, *[torch.float32] * 3]
    for found, expected in zip([y, *gradients], exact, strict=True):
        assert (found - expected).square().mean().sqrt() < 1.5e-2 * expected.std()


@needs_compiler
@pytest.mark.parametrize("dtype", winograd.IMAGES)
def test_threads_change_nothing(dtype):
    """Tiles that no number of threads divides."""
    x, y_grad = numbers(7, 16, 9, 9, dtype=dtype), numbers(7, 40, 9, 9, seed=2, dtype=dtype)
    weight = numbers(40, 16, 3, 3, seed=1)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append((convolution(x, weight), filter_gradient(x, y_grad)))
    for y, gradient in found[1:]:
        assert torch.equal(y, found[0][0])
        assert torch.equal(gradient, found[0][1])


@needs_compiler
@pytest.mark.parametrize("dtype", winograd.IMAGES)
def test_a_gradient_is_the_same_by_parts(dtype, monkeypatch):
    x, y_grad = numbers(7, 16, 9, 9, dtype=dtype), numbers(7, 24, 9, 9, seed=2, dtype=dtype)
    whole = filter_gradient(x, y_grad)
    monkeypatch.setattr(winograd, "AT_ONCE", 1)
    torch.testing.assert_close(filter_gradient(x, y_grad), whole, rtol=1e-5, atol=1e-3)


@needs_compiler
@pytest.mark.parametrize("dtype", winograd.IMAGES)
def test_an_images_own_answer_does_not_depend_on_those_beside_it(dtype):
    """Labels, then, do not depend on how many images a file of them holds."""
    fast, x = with_winograd(nn.Sequential(layer())), numbers(40, 16, 9, 9, dtype=dtype)
    with threads(2), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        whole, parts = fast(x), [fast(part) for part in x.split(3)]
    assert torch.equal(whole, torch.cat(parts))


@needs_compiler
def test_torch_compiles_around_it_and_finds_the_same():
    model = nn.Sequential(layer(), nn.ReLU(), layer(24, 16))
    fast = compiled(with_winograd(deepcopy(model)).forward)
    x = numbers(4, 16, 8, 8).requires_grad_(True)
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    (found,) = torch.autograd.grad(fast(x).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_of_a_model_those_change_that_can_and_its_state_does_not():
    model = models.build("resnet18", 10, 64, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert with_winograd(model) is model
    changed = [found for found in model.modules() if isinstance(found, nn.Conv2d) and type(found) is not nn.Conv2d]
    # Of 20: not the stem, which has three channels, three that halve the map, and three of 1x1 beside those.
    assert len(changed) == 13
    assert all(type(found) is WinogradConv2d and found.stride == (1, 1) for found in changed)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(model.state_dict()) == list(before)


@pytest.mark.parametrize(
    "options", [{"groups": 8}, {"dilation": 2}, {"stride": 2}, {"padding_mode": "reflect"}, {"channels": 12}]
)
def test_other_convolutions_stay_as_they_are(options):
    model = nn.Sequential(layer(**options))
    assert type(with_winograd(model)[0]) is nn.Conv2d


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((8, 16, 2, 2), torch.float32),  # a tile of 4x4 for four pixels
        ((64, 16, 16, 16), torch.float64),
    ],
)
def test_what_gains_nothing_goes_the_direct_way(shape, dtype, monkeypatch):
    monkeypatch.setattr(winograd, "convolution", None)
    direct = layer().to(dtype)
    x = numbers(*shape, dtype=dtype)
    assert torch.equal(with_winograd(nn.Sequential(deepcopy(direct)))(x), direct(x))


def test_placing_asks_for_it():
    model = nn.Sequential(layer())
    assert type(place(deepcopy(model), CPU)[0]) is nn.Conv2d
    assert type(place(model, CPU, winograd=True)[0]) is WinogradConv2d


def test_a_compiler_that_fails_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "false")
    winograd._library.cache_clear()
    with pytest.raises(WorldError, match=r"false cannot compile winograd\.cpp, so set compute.convolutions=direct"):
        convolution(numbers(9, 16, 8, 8), numbers(16, 16, 3, 3))


@needs_compiler
def test_a_run_takes_it_where_it_is_faster(monkeypatch, tmp_path):
    def convolutions(**compute):
        return settle(resolve("teddy", {}, {f"compute.{name}": value for name, value in compute.items()})).compute

    assert convolutions(device="cpu", precision="float32").convolutions == "winograd"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert convolutions(device="cpu", precision="bfloat16").convolutions == "winograd"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert convolutions(device="cpu", precision="bfloat16").convolutions == "direct"
    assert convolutions(device="cpu", precision="bfloat16", convolutions="winograd").convolutions == "winograd"
    assert convolutions(device="cpu", precision="float32").convolutions == "winograd"
    assert convolutions(device="cpu", precision="float32", convolutions="direct").convolutions == "direct"
    with pytest.raises(UserError, match=r"winograd' is for a CPU, and compute.device = 'cuda'"):
        convolutions(device="cuda", convolutions="winograd")
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    assert convolutions(device="cpu", precision="float32").convolutions == "direct"
    with pytest.raises(UserError, match=r"it needs a C\+\+ compiler"):
        convolutions(device="cpu", precision="float32", convolutions="winograd")


def test_it_has_an_address_of_its_own():
    specs = [resolve("teddy", {}, {"compute.convolutions": way}) for way in ("direct", "winograd")]
    assert len({addresses.unit(spec, "data", ["a"], "u", [1], compiled=False) for spec in specs}) == 2
