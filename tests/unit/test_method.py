"""The method's parts against plain references: views, randomness, pixels, training, synthesis, starts, labels."""

import copy
import dataclasses
import math
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from teddy_ray import models
from teddy_ray.method import initial, labels, pool, randomness, statistics, synthesis, training, views
from teddy_ray.method.matching import Teacher, Weights, eq7
from teddy_ray.method.optimisation import cosine, place, precision
from teddy_ray.method.pixels import Pixels
from teddy_ray.method.statistics import Observer, batch_statistics, class_means, estimate_again, frozen
from teddy_ray.method.synthesis import Settings, Synthesis
from teddy_ray.method.training import LabelledViews, Trainer, TrainingRecipe, real_batches, soft_cross_entropy

CPU = torch.device("cpu")
CLASSES = 3
# Bounds that float32 holds exactly: black -2, white 2.
PLAIN = Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Net(nn.Module):
    """Layers that run in the opposite of the order in which they are registered."""

    def __init__(self, seed=0, width=5):
        super().__init__()
        self.head = nn.Linear(4, CLASSES)
        self.late, self.early = nn.BatchNorm2d(4), nn.BatchNorm2d(width)
        self.second, self.first = nn.Conv2d(width, 4, 3, stride=2), nn.Conv2d(3, width, 3, padding=1)
        with torch.no_grad():
            for index, (name, tensor) in enumerate(self.state_dict().items()):
                if tensor.is_floating_point():
                    tensor.copy_(0.5 * numbers(*tensor.shape, seed=100 * seed + index))
                if name.endswith(("running_var", "late.weight", "early.weight")):
                    tensor.abs_().add_(0.3)

    def forward(self, x):
        x = functional.relu(self.early(self.first(x)))
        x = functional.relu(self.late(self.second(x)))
        return self.head(x.mean(dim=(2, 3)))


def teacher(seed=0, dtype=torch.float32, **options):
    return Teacher(Net(seed, **options).to(dtype), torch.zeros(1, 3, 8, 8, dtype=dtype))


# --- Statistics ---


def test_statistics_come_in_running_order_whatever_the_order_of_registration():
    net = Net()
    assert statistics.layers(net) == [net.late, net.early]
    observer = Observer(net, torch.zeros(1, 3, 8, 8))
    for (mean, variance), layer in zip(observer.remembered(), (net.early, net.late), strict=True):
        assert torch.equal(mean, layer.running_mean)
        assert torch.equal(variance, layer.running_var)
    assert [len(mean) for mean, _ in observer(numbers(2, 3, 8, 8)).statistics] == [5, 4]


def test_observers_have_the_models_tensors_and_leave_its_structure_alone():
    net = Net()
    observers = [Observer(net, torch.zeros(1, 3, 8, 8)) for _ in range(2)]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())
    of_net = {tensor.data_ptr() for tensor in net.state_dict().values()}
    assert all({value.data_ptr() for value in observer.model.state_dict().values()} == of_net for observer in observers)
    one, other = (observer(numbers(2, 3, 8, 8)) for observer in observers)
    assert torch.equal(one.logits, other.logits)


def test_a_frozen_model_answers_as_it_does_in_evaluation_mode():
    net, x = Net().eval(), numbers(4, 3, 8, 8)
    for seed, layer in enumerate(statistics.layers(net)):
        layer.weight.data, layer.bias.data = numbers(len(layer.weight), seed=seed), numbers(len(layer.bias), seed=9)
        layer.running_mean, layer.running_var = numbers(len(layer.bias), seed=7), layer.weight.data.square() + 0.1
    changed = frozen(copy.deepcopy(net))
    torch.testing.assert_close(changed(x), net(x))
    assert list(changed.state_dict()) == list(net.state_dict())
    assert not any(parameter.requires_grad for parameter in changed.parameters())


def test_batch_statistics_are_biased_and_wide():
    x = numbers(6, 2, 3, 4) + 5
    mean, variance = batch_statistics(x)
    columns = x.permute(1, 0, 2, 3).reshape(2, -1).double()
    torch.testing.assert_close(mean.double(), columns.mean(dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(variance.double(), columns.var(dim=1, unbiased=False), atol=1e-5, rtol=0)
    assert batch_statistics(x.bfloat16())[1].dtype == torch.float32
    assert batch_statistics(x.double())[1].dtype == torch.float64


def test_recorded_features_are_what_the_head_was_given():
    net, x = Net().eval(), numbers(3, 3, 8, 8)
    seen = Observer(net, x)(x)
    torch.testing.assert_close(net.head(seen.features), seen.logits)


def test_estimating_again_is_the_plain_average_over_batches():
    net = Net().double()
    batches = [numbers(4, 3, 8, 8, seed=s, dtype=torch.float64) * (s + 1) for s in range(3)]
    seen = []
    handle = net.early.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    estimate_again(net, batches)
    handle.remove()
    torch.testing.assert_close(net.early.running_mean, sum(x.mean(dim=(0, 2, 3)) for x in seen) / 3)
    torch.testing.assert_close(net.early.running_var, sum(x.var(dim=(0, 2, 3)) for x in seen) / 3)
    assert not net.training
    assert net.early.momentum == 0.1


def test_class_means_over_batches():
    net = Net().eval().double()
    x, y = numbers(7, 3, 8, 8, seed=1, dtype=torch.float64), torch.tensor([0, 2, 2, 0, 0, 2, 0])
    means = class_means(net, [(x[:4], y[:4]), (x[4:], y[4:])], CLASSES)
    seen = Observer(net, x)(x)
    for class_ in (0, 2):
        torch.testing.assert_close(means[class_], seen.features[y == class_].mean(dim=0))
    assert torch.equal(means[1], torch.zeros(4))  # no image: no answer, but a finite one


# --- Synthesis ---


SETTINGS = Settings(
    iterations=6,
    models_per_step=1,
    optimizer="adam",
    lr=0.1,
    betas=(0.5, 0.9),
    weights=Weights(statistics=0.8, classification=1.2, first_layer=10.0),
    crop_scale=0.4,
    shared_crop=False,
    bfloat16=False,
)


def unit(start=None, *, teachers=None, images=None, seed=3, name="c000-s000", flip=True, **changes):
    start = numbers(4, 3, 8, 8, seed=9) if start is None else start
    return Synthesis(
        start,
        torch.arange(len(start)) % CLASSES,
        images_B=torch.arange(len(start)) if images is None else images,
        teachers=teachers or [teacher(s) for s in range(3)],
        settings=dataclasses.replace(SETTINGS, **changes),
        pixels=PLAIN,
        flip=flip,
        seed=seed,
        unit=name,
    )


class Hook:
    """A BatchNorm's distance, in the way of SRe2L: a forward hook that compares with the running buffers."""

    def __init__(self, layer):
        self.handle = layer.register_forward_hook(self.see)

    def see(self, layer, inputs, _):
        columns = inputs[0].permute(1, 0, 2, 3).reshape(inputs[0].shape[1], -1)
        mean, variance = columns.mean(dim=1), columns.var(dim=1, unbiased=False)
        self.distance = torch.norm(layer.running_var - variance, 2) + torch.norm(layer.running_mean - mean, 2)


def resampled(x, geometry):
    """Crop and mirror by torch's own sampler."""
    theta = torch.zeros(len(x), 2, 3, dtype=x.dtype)
    sign = torch.where(geometry.flip, -1.0, 1.0)
    theta[:, 0, 0], theta[:, 1, 1] = geometry.width * sign, geometry.height
    theta[:, 0, 2] = 2 * geometry.left.to(x.dtype) + geometry.width - 1
    theta[:, 1, 2] = 2 * geometry.top.to(x.dtype) + geometry.height - 1
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def reference_steps(x, y, models, steps, *, optimizer, shared=False):
    """Algorithm 1's loop in plain torch, with every model in every step."""
    x = x.clone().requires_grad_(True)
    optimizer = optimizer([x])
    hooks = [(Hook(model.early), Hook(model.late)) for model in models]
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * step / SETTINGS.iterations))
        image = torch.zeros(len(x), dtype=torch.int64) if shared else torch.arange(len(x))
        geometry = views.draw(
            3, image, torch.full((len(x),), step + 1), crop_scale=0.4, flip=True, cutmix=False, images=len(x)
        )
        seen = resampled(x, geometry)
        loss = 0.0
        for model, (early, late) in zip(models, hooks, strict=True):
            entropy = functional.cross_entropy(model(seen), y)
            loss = loss + (0.8 * (10 * early.distance + late.distance) + 1.2 * entropy) / len(models)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        x.data.clamp_(-2, 2)
        losses.append(float(loss.detach()))
    return x.detach(), losses


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "reference"),
    [
        ("adam", lambda x: torch.optim.Adam(x, lr=0.1, betas=(0.5, 0.9), eps=1e-8)),
        ("sgd", lambda x: torch.optim.SGD(x, lr=0.1, momentum=0.5)),
    ],
)
def test_synthesis_is_the_plain_loop(optimizer, reference, shared):
    start = 1.5 * numbers(4, 3, 8, 8, seed=9, dtype=torch.float64)
    teachers = [teacher(seed, torch.float64, width=5 + seed) for seed in range(2)]
    work = unit(start, teachers=teachers, models_per_step=2, optimizer=optimizer, shared_crop=shared)
    losses = [float(work.step().total) for _ in range(4)]
    models = [each.observe.model for each in teachers]
    x, expected = reference_steps(start, work.labels, models, 4, optimizer=reference, shared=shared)
    assert losses == pytest.approx(expected, abs=1e-10)
    torch.testing.assert_close(work.x.detach(), x, atol=1e-9, rtol=0)
    assert (x - start).abs().max() > 0.1


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_synthesis_resumes_to_the_bit(optimizer, before):
    whole = unit(optimizer=optimizer)
    for _ in range(before):
        whole.step()
    state = whole.state()
    losses = [whole.step() for _ in range(6 - before)]  # which must leave the state that was taken alone
    for _ in range(2):  # … and so must resuming
        resumed = unit(numbers(4, 3, 8, 8, seed=77), optimizer=optimizer)
        resumed.load_state(state)
        assert resumed.iteration == before
        again = [resumed.step() for _ in range(6 - before)]
        assert torch.equal(resumed.x, whole.x)
        assert [tuple(map(float, loss)) for loss in again] == [tuple(map(float, loss)) for loss in losses]
    assert all(value.is_contiguous() for value in state.values())


@pytest.fixture
def drawn(monkeypatch):
    """The teachers asked in each step, by their place in the pool."""
    asked = []

    def told(teacher, x, y, weights):
        asked.append(teacher)
        return eq7(teacher, x, y, weights)

    monkeypatch.setattr(synthesis, "eq7", told)
    return asked


def test_n_models_a_step_without_replacement(drawn):
    teachers = [teacher(s) for s in range(4)]
    work = unit(teachers=teachers, models_per_step=3, iterations=40)
    choices = []
    for _ in range(40):
        drawn.clear()
        work.step()
        choices.append([teachers.index(one) for one in drawn])
    assert all(len(set(choice)) == 3 for choice in choices)
    counts = np.bincount(np.concatenate(choices), minlength=4)
    assert counts.min() >= 20  # 30 each, on average
    assert len({tuple(sorted(choice)) for choice in choices}) == 4


def test_the_loss_is_the_mean_over_the_models():
    teachers = [teacher(s) for s in range(3)]
    work = unit(teachers=teachers, models_per_step=3, crop_scale=1.0, flip=False)
    apart = [eq7(one, work.x, work.labels, SETTINGS.weights) for one in teachers]
    for told, parts in zip(work.step(), zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(told, torch.stack(parts).mean().detach())


def test_a_unit_does_not_depend_on_other_units_or_on_global_randomness(drawn):
    teachers = [teacher(s) for s in range(3)]
    alone = unit(teachers=teachers)
    for _ in range(4):
        alone.step()
    sequence = [teachers.index(one) for one in drawn]
    drawn.clear()
    before = torch.get_rng_state()
    beside, other = unit(teachers=teachers), unit(teachers=teachers, name="c000-s001", images=torch.arange(4, 8))
    for _ in range(4):
        other.step()
        beside.step()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(beside.x, alone.x)
    assert not torch.equal(other.x, alone.x)
    assert [teachers.index(one) for one in drawn[1::2]] == sequence
    sequences = {tuple(unit(teachers=range(9), name=name)._draw_teachers()) for name in "abcdefgh"}
    assert len(sequences) > 3  # every unit draws its own


def test_images_stay_real_pixels():
    work = unit(100 * numbers(4, 3, 8, 8), lr=50.0)
    for _ in range(2):
        work.step()
        assert work.x.min() >= -2
        assert work.x.max() <= 2


def test_bfloat16_is_of_the_models_only_and_near_float32():
    wide, narrow = unit(), unit(bfloat16=True)
    assert float(narrow.step().total) == pytest.approx(float(wide.step().total), rel=0.03)
    assert narrow.x.dtype == torch.float32
    assert all(value.dtype != torch.bfloat16 for value in narrow.state().values())


def test_a_shared_crop_is_one_for_all():
    same = numbers(1, 3, 8, 8).expand(4, -1, -1, -1)
    shared, own = unit(same, shared_crop=True)._view(), unit(same)._view()
    assert all(torch.equal(shared[0], each) for each in shared)
    assert not torch.equal(own[0], own[1])


def test_the_start_is_copied():
    start = numbers(4, 3, 8, 8)
    before = start.clone()
    unit(start).step()
    assert torch.equal(start, before)


# --- Views ---


def draw(image, view, *, seed=0, crop_scale=0.3, flip=True, cutmix=True, images=100):
    return views.draw(seed, image, view, crop_scale=crop_scale, flip=flip, cutmix=cutmix, images=images)


def many(count=2000, **options):
    return draw(torch.arange(count), torch.ones(count, dtype=torch.int64), images=count, **options)


@pytest.mark.parametrize("size", [(8, 8), (11, 11), (28, 28), (32, 32), (64, 64), (100, 75), (224, 224)])
def test_view_0_is_the_image_itself(size):
    images, image = numbers(8, 3, *size), torch.arange(8)
    geometry = draw(image, torch.zeros_like(image))
    assert torch.equal(views.crop(images, geometry), images)
    assert torch.equal(geometry.partner, image)
    shown, kept = views.render(images, images, geometry, geometry)
    assert torch.equal(shown, images)
    assert kept.tolist() == [1.0] * 8


@pytest.mark.parametrize("size", [(8, 8), (13, 9), (32, 32)])
def test_crops_are_those_of_torchs_sampler(size):
    images = numbers(40, 3, *size, dtype=torch.float64)
    geometry = many(40, crop_scale=0.08)
    expected = resampled(images, geometry)
    torch.testing.assert_close(views.crop(images, geometry), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(views.crop(images.float(), geometry).double(), expected, atol=1e-5, rtol=0)
    gradients = []
    for sampler in (views.crop, resampled):
        x = images.clone().requires_grad_(True)
        (sampler(x, geometry) * numbers(40, 3, *size, seed=2, dtype=torch.float64)).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_a_flip_mirrors_the_same_crop():
    geometry, images = many(50), numbers(50, 3, 9, 9)
    assert 10 < geometry.flip.sum() < 40
    straight = views.crop(images, dataclasses.replace(geometry, flip=torch.zeros(50, dtype=torch.bool)))
    mirrored = torch.where(geometry.flip[:, None, None, None], straight.flip(3), straight)
    torch.testing.assert_close(views.crop(images, geometry), mirrored, atol=1e-5, rtol=0)
    assert not many(50, flip=False).flip.any()


def columns(geometry):
    return [getattr(geometry, field.name) for field in dataclasses.fields(geometry)]


def test_a_geometry_depends_on_its_own_name_only():
    image, view = torch.arange(60) % 20, torch.arange(60) // 20
    together = draw(image, view)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    for rows in (order, order[:7], torch.tensor([41])):
        apart = draw(image[rows], view[rows])
        assert all(torch.equal(one, other) for one, other in zip(columns(apart), columns(together[rows]), strict=True))
    other = draw(image, view, seed=1)
    assert not torch.equal(other.top, together.top)
    augmented = together[torch.arange(20, 60)]
    for name in ("top", "left", "height", "width", "mix_height"):
        assert getattr(augmented, name).unique().numel() > 35  # every (image, view) has its own


@pytest.mark.parametrize("crop_scale", [0.08, 0.5, 1.0])
def test_crops_keep_their_bounds(crop_scale):
    geometry = many(crop_scale=crop_scale)
    area, aspect = geometry.height * geometry.width, geometry.width / geometry.height
    assert area.min() >= crop_scale - 1e-5
    assert area.max() <= 1 + 1e-5
    assert aspect.min() >= 3 / 4 - 1e-5
    assert aspect.max() <= 4 / 3 + 1e-5
    for start, length in ((geometry.top, geometry.height), (geometry.left, geometry.width)):
        assert start.min() >= 0
        assert (start + length).max() <= 1 + 1e-6
    middle = (1 + crop_scale) / 2
    assert float(area.mean()) == pytest.approx(middle, abs=0.02)
    if crop_scale < 1:
        assert float(area.std()) == pytest.approx((1 - crop_scale) / math.sqrt(12), abs=0.02)
    if crop_scale == 0.08:
        small = area < 0.5  # where any aspect fits
        assert float(aspect[small].log().mean()) == pytest.approx(0, abs=0.02)
        assert float(aspect[small].log().std()) == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), abs=0.02)


def test_cutmix_pastes_the_box_and_counts_what_is_kept():
    geometry = many(300)
    shown, kept = views.paste(torch.zeros(300, 3, 16, 16), torch.ones(300, 3, 16, 16), geometry)
    torch.testing.assert_close(kept, 1 - shown[:, 0].mean(dim=(1, 2)))
    assert torch.equal(shown[:, 0], shown[:, 2])
    share = geometry.mix_height * geometry.mix_width
    assert (kept - (1 - share)).abs().max() < 2.5 / 16  # to the pixel's edges
    assert (geometry.mix_top >= 0).all()
    assert (geometry.mix_left + geometry.mix_width <= 1 + 1e-6).all()
    large = many(20000)
    inside = (large.mix_top > 0) & (large.mix_left > 0)
    inside &= (large.mix_top + large.mix_height < 1) & (large.mix_left + large.mix_width < 1)
    torch.testing.assert_close(large.mix_height[inside], large.mix_width[inside], atol=1e-5, rtol=0)
    counts = torch.bincount(large.partner, minlength=20000)
    assert float((counts == 0).double().mean()) == pytest.approx(math.exp(-1), abs=0.02)  # any image is as likely
    plain = many(50, cutmix=False)
    assert torch.equal(plain.partner, torch.arange(50))
    assert not plain.mix_height.any()


def test_cutmixs_lambda_is_uniform(monkeypatch):
    """Boxes around the middle are never cut off: their area is 1 - lambda."""
    real = views.uniform
    monkeypatch.setattr(
        views, "uniform", lambda *name: real(*name) * 0 + 0.5 if name[1].startswith("mix_") else real(*name)
    )
    geometry = many(5000)
    area = (geometry.mix_height * geometry.mix_width).sort().values
    assert float((area - (torch.arange(5000) + 0.5) / 5000).abs().max()) < 0.03


def test_a_rendered_view_shows_the_partners_own_view_in_the_box():
    images = numbers(3, 3, 8, 8)
    whole = draw(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    own = dataclasses.replace(
        whole[torch.tensor([0])],
        partner=torch.tensor([2]),
        **{f"mix_{name}": torch.tensor([0.5]) for name in ("top", "left", "height", "width")},
    )
    partner = dataclasses.replace(whole[torch.tensor([2])], flip=torch.tensor([True]))
    shown, kept = views.render(images[:1], images[2:], own, partner)
    expected = images[0].clone()
    expected[:, 4:, 4:] = images[2].flip(2)[:, 4:, 4:]
    assert torch.equal(shown[0], expected)
    assert kept.tolist() == [0.75]


# --- Randomness ---


def splitmix(*coordinates):
    """bits() in Python's own integers."""
    word, state = 2**64 - 1, 0
    for coordinate in coordinates:
        state = ((state + 0x9E3779B97F4A7C15) & word) ^ (coordinate & word)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & word
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & word
        state ^= state >> 31
    return state


def test_bits_are_splitmix64():
    assert splitmix(0) == 0xE220A8397B1DCDAF  # its published first number from seed 0
    for name in ((0,), (1, 2, 3), (-5, 2**40), (2**31 - 1, 0, 0)):
        assert int(randomness.bits(*name)) % 2**64 == splitmix(*name)
    assert float(randomness.uniform(7, 8)) == (splitmix(7, 8) >> 11) / 2**53
    assert randomness.seed_of(7, 8) == splitmix(7, 8) >> 33
    assert int(randomness.bits("123456789")) % 2**64 == splitmix(
        0xCBF43926
    )  # CRC-32 of a name, and its published check


def test_uniform_and_normal_have_their_moments():
    n = 20_000
    flat = randomness.uniform(1, "flat", torch.arange(n))
    assert flat.min() >= 0
    assert flat.max() < 1
    distance = (flat.sort().values - (torch.arange(n) + 0.5) / n).abs().max()
    assert float(distance) < 2 / math.sqrt(n)
    bell = randomness.normal(1, "bell", torch.arange(n))
    moments = [float((bell**power).mean()) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.15)
    assert moments[:2] == pytest.approx([0, 1], abs=0.03)


def test_coordinates_are_independent():
    grid = randomness.uniform(0, "grid", torch.arange(300)[:, None], torch.arange(300)).numpy()
    pairs = [
        (grid[1:], grid[:-1]),
        (grid[:, 1:], grid[:, :-1]),
        (grid, grid.T),
        (grid, randomness.uniform(1, "grid", torch.arange(300)[:, None], torch.arange(300)).numpy()),
        (grid, randomness.uniform(0, "grit", torch.arange(300)[:, None], torch.arange(300)).numpy()),
    ]
    for one, other in pairs[:2] + pairs[3:]:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02
    above = np.triu_indices(300, 1)
    assert abs(np.corrcoef(grid[above], grid.T[above])[0, 1]) < 0.02
    assert len(np.unique(grid)) == grid.size


def test_a_number_is_the_same_on_any_split_of_the_batch():
    image = torch.arange(100)
    together = randomness.normal(5, "x", image, 3)
    split = torch.cat([randomness.normal(5, "x", part, 3) for part in image.split(7)])
    assert torch.equal(together, split)
    assert torch.equal(together[42], randomness.normal(5, "x", 42, 3))


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_a_permutation_is_one(count):
    assert randomness.permutation(count, 1, "order").sort().values.tolist() == list(range(count))


def test_permutations_are_fair():
    firsts = [tuple(randomness.permutation(3, seed, "order").tolist()) for seed in range(1200)]
    counts = [firsts.count(order) for order in set(firsts)]
    assert len(counts) == 6
    assert min(counts) > 150  # 200 each, on average


# --- Pixels ---


EVERY_LEVEL = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, -1, -1)
PALETTES = [
    PLAIN,
    Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Pixels((0.0, 1.0, 0.31), (0.003922, 0.01, 0.5)),
]


@pytest.mark.parametrize("pixels", PALETTES)
def test_every_level_survives_normalising(pixels):
    assert torch.equal(pixels.quantise(pixels.normalise(EVERY_LEVEL)), EVERY_LEVEL)


@pytest.mark.parametrize("pixels", PALETTES)
def test_bounds_are_black_and_white(pixels):
    black, white = pixels.bounds(CPU)
    normal = pixels.normalise(EVERY_LEVEL)
    torch.testing.assert_close(black.view(3), normal.amin(dim=(0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(white.view(3), normal.amax(dim=(0, 2, 3)), rtol=1e-6, atol=1e-6)
    beyond = torch.cat([black - 1, white + 1]).expand(2, 3, 2, 2)
    assert pixels.quantise(beyond).unique().tolist() == [0, 255]


def test_quantising_rounds_to_the_nearest_level():
    levels = PLAIN.normalise(EVERY_LEVEL)
    step = 4 / 255
    assert torch.equal(PLAIN.quantise(levels + 0.49 * step), EVERY_LEVEL)
    assert torch.equal(PLAIN.quantise(levels - 0.49 * step), EVERY_LEVEL)


def test_pixels_are_measured_per_channel():
    images = torch.randint(0, 256, (20, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    images[:, 1] = 200
    images[:, 2] //= 4
    found = Pixels.of(images)
    each = images.numpy().transpose(1, 0, 2, 3).reshape(3, -1) / 255
    assert found.mean == pytest.approx(tuple(each.mean(axis=1)), abs=1e-6)
    assert found.std[0::2] == pytest.approx(tuple(each.std(axis=1))[0::2], abs=1e-6)
    assert found.std[1] == pytest.approx(1 / 255, abs=1e-6)  # a channel without contrast
    normal = found.normalise(images)
    torch.testing.assert_close(normal[:, 0].mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    assert normal.dtype == torch.float32


# --- Optimisation and training ---


def test_the_schedule_warms_up_and_ends_where_it_is_told():
    warm = [cosine(0.1, step, 100, warmup=4) for step in range(4)]
    assert warm == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert cosine(0.1, 4, 100, warmup=4) == pytest.approx(0.1)
    assert cosine(0.1, 52, 100, warmup=4) == pytest.approx(0.05)
    assert cosine(0.1, 100, 100, warmup=4) == pytest.approx(0.0)
    assert cosine(0.1, 100, 100, warmup=4, end=0.5) == pytest.approx(0.05)
    assert cosine(0.1, 0, 100) == pytest.approx(0.1)
    assert cosine(0.1, 150, 100, end=0.2) == pytest.approx(0.02)
    assert cosine(0.1, 5, 5, warmup=5) == pytest.approx(0.1)  # all warm-up
    falling = [cosine(0.1, step, 50, end=0.1) for step in range(51)]
    assert falling == sorted(falling, reverse=True)


def test_a_placed_model_answers_as_before():
    model = models.build("resnet18", CLASSES, 8).eval()
    placed_, x = place(copy.deepcopy(model), CPU), numbers(2, 3, 8, 8)
    assert not any(getattr(layer, "inplace", False) for layer in placed_.modules())
    torch.testing.assert_close(placed_(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_precision_is_of_matrix_products_only(bfloat16):
    x = numbers(3, 3)
    with precision(CPU, bfloat16=bfloat16):
        assert (x @ x).dtype == (torch.bfloat16 if bfloat16 else torch.float32)
        assert batch_statistics((x @ x)[None, :, :, None])[0].dtype == torch.float32


RECIPE = TrainingRecipe(epochs=4, optimizer="sgd", lr=0.1, weight_decay=0.01, bfloat16=False, warmup_epochs=0.5)


def some_batches(count, seed=0):
    return [
        (numbers(6, 3, 8, 8, seed=seed + i), functional.one_hot(torch.arange(6) % CLASSES, CLASSES).float())
        for i in range(count)
    ]


def test_hard_targets_give_torchs_cross_entropy():
    logits, y = numbers(5, 4, seed=1, dtype=torch.float64), torch.tensor([0, 3, 2, 2, 1])
    hard = functional.one_hot(y, 4).double()
    torch.testing.assert_close(soft_cross_entropy(logits, hard, RECIPE), functional.cross_entropy(logits, y))


def test_label_smoothing_is_torchs_up_to_the_targets_entropy():
    """A divergence instead of a cross-entropy: less by a constant, with the same gradient."""
    y = torch.tensor([0, 3, 2, 2, 1])
    hard, smooth = functional.one_hot(y, 4).double(), dataclasses.replace(RECIPE, label_smoothing=0.1)
    here, there = (numbers(5, 4, seed=1, dtype=torch.float64).requires_grad_(True) for _ in range(2))
    ours, torchs = soft_cross_entropy(here, hard, smooth), functional.cross_entropy(there, y, label_smoothing=0.1)
    ours.backward()
    torchs.backward()
    torch.testing.assert_close(here.grad, there.grad)
    entropy = -(0.925 * math.log(0.925) + 3 * 0.025 * math.log(0.025))
    assert float((torchs - ours).detach()) == pytest.approx(entropy)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_give_hintons_divergence(temperature):
    logits, teacher_logits = (numbers(5, 4, seed=s, dtype=torch.float64) for s in (1, 2))
    target = (teacher_logits / temperature).softmax(dim=1)
    found = (logits / temperature).softmax(dim=1)
    by_hand = temperature**2 * (target * (target / found).log()).sum() / 5
    recipe = dataclasses.replace(RECIPE, temperature=temperature)
    torch.testing.assert_close(soft_cross_entropy(logits, target, recipe), by_hand)
    assert float(soft_cross_entropy(teacher_logits, target, recipe)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_trainer_is_the_plain_loop(optimizer):
    model, batches = Net(), some_batches(6)
    plain = copy.deepcopy(model).train()
    trainer = Trainer(model, dataclasses.replace(RECIPE, optimizer=optimizer, lr_end=0.1), steps_per_epoch=3)
    loss = trainer.epoch(batches[:3])
    trainer.epoch(batches[3:])
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    free = [p for p in plain.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    if optimizer == "sgd":
        reference = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    else:
        reference = torch.optim.AdamW(groups, lr=0.1)
    losses = []
    for step, (x, y) in enumerate(batches):
        for group in reference.param_groups:
            group["lr"] = cosine(0.1, step, 12, warmup=1.5, end=0.1)
        value = functional.cross_entropy(plain(x), y)
        reference.zero_grad()
        value.backward()
        reference.step()
        losses.append(float(value.detach()))
    assert loss == pytest.approx(sum(losses[:3]) / 3, abs=1e-5)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def placed(model):
    return model.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_trainer_resumes_to_the_bit(optimizer):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    whole = Trainer(placed(Net()), recipe, steps_per_epoch=2)
    whole.epoch(some_batches(2))
    state, weights = whole.state(), copy.deepcopy(whole.model.state_dict())
    whole.epoch(some_batches(2, seed=5))
    whole.epoch(some_batches(2, seed=9))
    for _ in range(2):  # neither going on nor resuming may change the state that was taken
        resumed = Trainer(placed(Net(seed=8)), recipe, steps_per_epoch=2)
        resumed.model.load_state_dict(weights)
        resumed.load_state(state)
        assert resumed.step == 2
        resumed.epoch(some_batches(2, seed=5))
        resumed.epoch(some_batches(2, seed=9))
        for name, value in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_new_trainer_has_a_state_too():
    trainer = Trainer(Net(), RECIPE, steps_per_epoch=2)
    state = trainer.state()
    assert list(state) == ["step"]
    trainer.load_state(state)
    trainer.epoch(some_batches(1))


REAL = (torch.arange(22).view(22, 1, 1, 1) * 10).expand(22, 3, 8, 8).to(torch.uint8)
REAL_LABELS = torch.arange(22) % CLASSES


def epoch_of(epoch=0, **options):
    """Batches as the rows that they show: every image is of one level of gray, which no crop changes."""
    options = {"batch_size": 6, "seed": 1, "crop_scale": 0.5, "flip": True} | options
    found = []
    for images, targets in real_batches(
        REAL, REAL_LABELS, classes=CLASSES, epoch=epoch, pixels=PLAIN, device=CPU, **options
    ):
        rows = (PLAIN.quantise(images)[:, 0, 3, 3].long() / 10).round().long()
        assert torch.equal(targets.argmax(dim=1), REAL_LABELS[rows])
        assert torch.equal(targets.sum(dim=1), torch.ones(len(rows)))
        found.append(rows.tolist())
    return found


def test_an_epoch_shows_every_image_once_but_for_the_last_batch():
    batches = epoch_of()
    assert [len(batch) for batch in batches] == [6, 6, 6]
    assert len(set(chain(*batches))) == 18
    assert epoch_of() == batches
    assert epoch_of(epoch=1) != batches
    assert epoch_of(seed=2) != batches
    assert sorted(chain(*epoch_of(batch_size=100))) == list(range(22))  # the only batch may be short


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_ranks_share_each_batch_out(replicas):
    ranks = [epoch_of(rank=rank, replicas=replicas) for rank in range(replicas)]
    for whole, parts in zip(epoch_of(), zip(*ranks, strict=True), strict=True):
        assert {len(part) for part in parts} == {6 // replicas}
        assert sorted(chain(*parts)) == sorted(whole)


def test_an_image_is_seen_alike_by_any_rank_and_differently_each_epoch():
    images = torch.randint(0, 256, (8, 3, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)

    def seen(epoch, **options):
        batches = real_batches(
            images,
            torch.arange(8),
            classes=8,
            batch_size=4,
            epoch=epoch,
            crop_scale=0.3,
            flip=True,
            pixels=PLAIN,
            seed=1,
            device=CPU,
            **options,
        )
        return {int(y.argmax()): x for images, targets in batches for x, y in zip(images, targets, strict=True)}

    whole, part = seen(0), seen(0, rank=1, replicas=2)
    assert len(part) == 4
    assert all(torch.equal(whole[row], image) for row, image in part.items())
    assert not any(torch.equal(whole[row], image) for row, image in seen(1).items())


def test_accuracy_and_logits_are_of_whole_images():
    net = Net()
    images = torch.randint(0, 256, (7, 3, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    logits = training.logits_of(net, images, pixels=PLAIN, bfloat16=False, device=CPU)
    torch.testing.assert_close(logits, net.eval()(PLAIN.normalise(images)).detach())
    hits = logits.argmax(dim=1)
    wrong = torch.where(torch.arange(7) < 2, (hits + 1) % CLASSES, hits)
    assert training.accuracy(logits, wrong) == pytest.approx(100 * 5 / 7)


# --- Students' batches ---


def labelled(count=5, views_=3, *, cutmix=False, flip=True):
    """Images of one gray level each, so that a picture tells which ones it shows."""
    image = torch.arange(count)

    def geometry(view):
        numbers_ = torch.full_like(image, view)
        return views.draw(0, image, numbers_, crop_scale=0.5, flip=flip, cutmix=cutmix, images=count)

    return LabelledViews(
        images=image.view(count, 1, 1, 1).expand(count, 3, 8, 8).to(torch.uint8),
        pixels=Pixels(mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255)),  # normalised are the levels themselves
        labels=image % CLASSES,
        classes=CLASSES,
        views=views_,
        geometry=geometry,
        answers=lambda view, image, _: logits_for(count, views_)[view * count + image],
    )


def levels(*shape):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def logits_for(count=5, views_=3):
    """What ``labelled`` answers, view by view."""
    return numbers((views_ + 1) * count, CLASSES, seed=4)


def batches(data, regime="views", *, epoch=0, batch_size=2, temperature=2.0, seed=1):
    return list(data.batches(regime=regime, epoch=epoch, batch_size=batch_size, temperature=temperature, seed=seed))


@pytest.mark.parametrize(("count", "size"), [(5, 1), (5, 2), (5, 4), (5, 5), (5, 50), (51, 50), (7, 3)])
def test_every_image_is_shown_once_an_epoch(count, size):
    data = labelled(count)
    found = batches(data, batch_size=size)
    shown = torch.cat([x[:, 0, 0, 0] for x, _ in found]).round().long()
    assert shown.sort().values.tolist() == list(range(count))
    sizes = [len(x) for x, _ in found]
    assert len(sizes) == -(-count // size)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1  # no last batch of one, which BatchNorm refuses
    answers = torch.cat([y for _, y in found])
    torch.testing.assert_close(answers, (logits_for(count)[count + shown] / 2.0).softmax(dim=1))


def test_epochs_go_round_the_views_and_leave_view_0_out():
    data = labelled(views_=3)
    assert data.views == 3
    for epoch in range(7):
        (x, y), *_ = batches(data, epoch=epoch, batch_size=5)
        row = (1 + epoch % 3) * 5 + x[:, 0, 0, 0].round().long()
        torch.testing.assert_close(y, (logits_for()[row] / 2.0).softmax(dim=1))
    orders = {tuple(batches(data, epoch=epoch, batch_size=5)[0][0][:, 0, 0, 0].round().tolist()) for epoch in range(7)}
    assert len(orders) > 3


def test_views_that_come_round_again_are_mirrored_every_second_time():
    """The same pictures as the first time round, mirrored, with the same targets in the same order of images."""
    straight = dataclasses.replace(labelled(8, 3, cutmix=True), images=levels(8, 3, 8, 8))
    mirroring = dataclasses.replace(straight, mirror=True)
    for epoch in range(9):
        for (x, y), (seen, target) in zip(batches(straight, epoch=epoch), batches(mirroring, epoch=epoch), strict=True):
            assert torch.equal(seen, x.flip(3) if epoch in (3, 4, 5) else x)
            assert torch.equal(target, y)


@pytest.mark.parametrize("regime", ["fixed", "hard"])
def test_views_that_need_no_answer_do_not_come_round_again(regime):
    """As many as epochs, whatever is stored: the same as with a view for every epoch."""
    few = dataclasses.replace(labelled(8, 3, cutmix=True), images=levels(8, 3, 8, 8), mirror=True)
    many = dataclasses.replace(few, views=9)
    for epoch in range(9):
        for (x, y), (seen, target) in zip(
            batches(many, regime, epoch=epoch), batches(few, regime, epoch=epoch), strict=True
        ):
            assert torch.equal(seen, x)
            assert torch.equal(target, y)


def test_a_labeller_that_is_asked_sees_the_mirror_image():
    data = dataclasses.replace(
        labelled(4, 1), images=levels(4, 3, 8, 8), mirror=True, answers=lambda _v, _i, shown: shown[:, 0, 0, :CLASSES]
    )
    for epoch in (0, 1):
        ((x, y),) = batches(data, epoch=epoch, batch_size=4)
        torch.testing.assert_close(y, (x[:, 0, 0, :CLASSES] / 2.0).softmax(dim=1))


def test_the_regimes_targets_by_hand():
    """Image 0 with a quarter of image 2 pasted in, image 1 with half of image 0, image 2 as it is."""
    data = labelled(3, 1, flip=False)
    boxes = {"partner": [2, 0, 2], "mix_top": [0.5, 0, 0], "mix_left": [0.5, 0, 0]}
    boxes |= {"mix_height": [0.5, 1, 0], "mix_width": [0.5, 0.5, 0]}
    boxes = {name: torch.tensor(box) for name, box in boxes.items()}
    geometry = {0: data.geometry(0), 1: dataclasses.replace(data.geometry(1), **boxes)}
    data = dataclasses.replace(data, geometry=geometry.__getitem__)
    soft = (logits_for(3, 1) / 2.0).softmax(dim=1)
    hard = torch.eye(3)
    by_hand = {
        "views": soft[3:],
        "fixed": torch.stack([0.75 * soft[0] + 0.25 * soft[2], 0.5 * soft[1] + 0.5 * soft[0], soft[2]]),
        "hard": torch.stack([0.75 * hard[0] + 0.25 * hard[2], 0.5 * hard[1] + 0.5 * hard[0], hard[2]]),
    }
    for regime, expected in by_hand.items():
        ((x, y),) = batches(data, regime, batch_size=3)
        own = x[:, 0, 0, 7].round().long()  # no box reaches the upper right corner
        torch.testing.assert_close(y, expected[own])
        shares = x[own.argsort(), 0].mean(dim=(1, 2))
        torch.testing.assert_close(shares, torch.tensor([0.25 * 2, 0.5 * 1, 2.0]))


def test_a_student_sees_what_the_labellers_saw():
    """The same picture as render gives for (image, view), the partner through its own view of that number."""
    data = dataclasses.replace(labelled(8, cutmix=True), images=levels(8, 3, 8, 8))
    images = data.pixels.normalise(data.images)
    order = randomness.permutation(8, 1, "order", 1)
    own = data.geometry(2)[order]
    expected, _ = views.render(images[order], images[own.partner], own, data.geometry(2)[own.partner])
    assert torch.equal(torch.cat([x for x, _ in batches(data, epoch=1, batch_size=3)]), expected)
    assert not torch.equal(views.render(images[order], images[own.partner], own, own)[0], expected)


def test_labellers_that_are_asked_see_what_the_student_sees():
    """For the regime views every view; for fixed the whole images, once for all epochs; for hard none."""
    heard = []

    def answers(view, image, shown):
        heard.append((view, image, shown))
        return shown.flatten(1)[:, :CLASSES]

    data = dataclasses.replace(labelled(8, cutmix=True), images=levels(8, 3, 8, 8), answers=answers)
    shown = [batches(data, epoch=epoch, batch_size=3) for epoch in (0, 1)]
    assert [view for view, *_ in heard] == [1] * 3 + [2] * 3
    for (x, y), (_, _, seen) in zip([*shown[0], *shown[1]], heard, strict=True):
        assert torch.equal(x, seen)
        torch.testing.assert_close(y, (x.flatten(1)[:, :CLASSES] / 2.0).softmax(dim=1))
    heard.clear()
    for epoch in (0, 1):
        batches(data, "fixed", epoch=epoch)
    batches(data, "hard")
    ((view, image, seen),) = heard
    assert (view, image.tolist()) == (0, list(range(8)))
    assert torch.equal(seen, data.pixels.normalise(data.images))


def test_all_regimes_show_the_same_pictures():
    data = labelled(cutmix=True)
    data = dataclasses.replace(data, images=numbers(5, 3, 8, 8))
    shown = [batches(data, regime, epoch=1) for regime in ("views", "fixed", "hard")]
    for one, two, three in zip(*shown, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[0], three[0])
        assert not torch.equal(one[1], two[1])
        for _, targets in (one, two, three):
            torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(targets)))


# --- The pool, the starts, the labels ---


@pytest.mark.parametrize(
    ("accuracies", "size", "band", "expected"),
    [
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 100], 3, (0.3, 0.7), [3, 5, 7]),
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 100], 5, (0.3, 0.7), [3, 4, 5, 6, 7]),
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 100], 2, (0.3, 0.7), [3, 7]),
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 100], 1, (0.3, 0.7), [5]),
        ([5, 10, 15, 20], 2, (0.5, 1.0), [2, 4]),  # a share of the final accuracy, and not of 100
        ([80, 90, 95, 100], 3, (0.3, 0.85), [1, 2, 3]),  # too few in the band: its nearest neighbours
        ([10, 85, 90, 95, 100], 2, (0.3, 0.6), [1, 2]),
        ([90, 95, 98, 100], 2, (0.1, 0.5), [1, 2]),  # none in the band
        ([20, 60, 30, 70, 50, 100], 3, (0.25, 0.65), [2, 3, 5]),  # up and down
        ([20, 60, 30, 90, 80], 2, (0.3, 0.9), [2, 3]),  # better in the middle than at the end
        ([0, 0, 0], 2, (0.3, 0.9), [1, 2]),  # nothing learnt
    ],
)
def test_checkpoints_come_from_the_band(accuracies, size, band, expected):
    assert pool.choose_checkpoints(accuracies, size=size, band=band) == expected


def test_checkpoints_are_never_chosen_twice():
    for epochs in range(1, 25):
        for size in range(1, epochs + 1):
            chosen = pool.choose_checkpoints([50.0] * epochs, size=size, band=(0.3, 1.0))
            assert len(set(chosen)) == size
            assert chosen == sorted(chosen)
            assert size == 1 or (chosen[0], chosen[-1]) == (1, epochs)


def slots(ipc, classes=CLASSES):
    return [(class_, slot) for slot in range(ipc) for class_ in range(classes)]


def test_noise_is_named_by_image():
    start = initial.noise(torch.arange(40), (8, 6), seed=1)
    assert start.shape == (40, 3, 8, 6)
    assert start.dtype == torch.float32
    assert torch.equal(start[[7, 3]], initial.noise(torch.tensor([7, 3]), (8, 6), seed=1))
    assert float(start.mean()) == pytest.approx(0, abs=0.04)
    assert float(start.std()) == pytest.approx(1, abs=0.04)
    assert not torch.equal(start, initial.noise(torch.arange(40), (8, 6), seed=2))
    assert start.unique().numel() > 0.999 * start.numel()


def test_random_real_images_are_of_their_class_and_never_twice():
    y = torch.tensor([2, 0, 1] * 12)
    ten = initial.random_real(y, slots(10), seed=1)
    assert y[ten].tolist() == [class_ for class_, _ in slots(10)]
    assert ten.unique().numel() == 30
    assert torch.equal(initial.random_real(y, slots(1), seed=1), ten[:3])
    assert not torch.equal(initial.random_real(y, slots(10), seed=2), ten)
    assert initial.random_real(y, slots(12), seed=1).sort().values.tolist() == list(range(36))


@pytest.fixture
def grays():
    """Real images of one level of gray each, all different: (images, labels)."""
    level = torch.randperm(60, generator=torch.Generator().manual_seed(2)) * 4
    return level.view(60, 1, 1, 1).expand(60, 3, 9, 9).to(torch.uint8), torch.arange(60) % CLASSES


def bright(x):
    """A base model that finds an image the easier the brighter it is, whatever the class."""
    return torch.stack([-x.mean(dim=(1, 2, 3))] * CLASSES, dim=1) * (1 - torch.eye(CLASSES))[0]


def patches(grays, ipc, logits, **options):
    options = {"candidates": 20, "seed": 1} | options
    images, y = grays
    places = slots(ipc)
    return initial.real_patches(images, y, places, logits=logits, pixels=PLAIN, device=CPU, crop_scale=0.5, **options)


def test_patches_are_the_easiest_of_their_candidates(grays):
    images, y = grays

    def logits(x):  # class 0 is easy when bright, class 1 when dark, class 2 when bright
        light = x.mean(dim=(1, 2, 3))
        return torch.stack([light, -light, light], dim=1)

    found = patches(grays, 1, logits)
    gray = [images[y == class_, 0, 0, 0] for class_ in range(CLASSES)]
    assert found[:, 0, 4, 4].tolist() == [int(gray[0].max()), int(gray[1].min()), int(gray[2].max())]
    assert found.dtype == torch.uint8


def test_more_images_begin_with_the_same_patches(grays):
    ten = patches(grays, 10, bright, candidates=5)
    assert torch.equal(patches(grays, 1, bright, candidates=5), ten[:3])
    images, y = grays
    for (class_, _), patch in zip(slots(10), ten, strict=True):
        assert int(patch[0, 0, 0]) in images[y == class_, 0, 0, 0].tolist()
    apart = patches(grays, 4, bright, candidates=5)[0::3, 0, 0, 0]
    assert apart.unique().numel() == 4  # 20 real images in four times five candidates: no image is asked twice


def test_a_patch_is_at_least_half_of_its_image():
    """On a ramp, a crop's range tells its length."""
    ramp = torch.arange(32, dtype=torch.uint8).mul(8).view(1, 1, 1, 32).expand(6, 3, 32, 32)
    found = initial.real_patches(
        ramp,
        torch.zeros(6, dtype=torch.int64),
        slots(60, 1),
        logits=lambda x: torch.zeros(len(x), 2),
        pixels=PLAIN,
        device=CPU,
        candidates=1,
        crop_scale=0.5,
        seed=1,
    ).int()
    width = (found[:, 0, 0, -1] - found[:, 0, 0, 0]) / 248
    assert (width > math.sqrt(0.5 * 3 / 4) - 1 / 32).all()  # and so never mirrored; half a pixel is lost at an edge
    assert (width < 0.8).any()


def test_a_coreset_stands_around_its_quantile():
    y = torch.tensor([0, 1] * 10)
    difficulty = torch.cat([torch.arange(10.0), torch.arange(10.0).flip(0)])  # any order
    for class_ in (0, 1):
        of_class = difficulty[y == class_].sort().values
        for quantile, expected in ((0.0, of_class[:3]), (1.0, of_class[-3:]), (0.5, of_class[4:7])):
            rows = initial.coreset(difficulty, y, ipc=3, quantile=quantile)
            assert y[rows].tolist() == [0, 1, 0, 1, 0, 1]
            assert torch.equal(difficulty[rows[class_::2]].sort().values, expected)
    assert initial.coreset(difficulty, y, ipc=10, quantile=0.3).sort().values.tolist() == list(range(20))


class Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_ensembles_by_hand():
    two = [Constant([0.0, 4.0]), Constant([1.0, 0.0])]
    x = torch.zeros(3, 3, 2, 2)
    assert labels.ensemble(two, x, average="logits").tolist() == [[0.5, 2.0]] * 3
    first, second = 1 / (1 + math.exp(4)), 1 / (1 + math.exp(-1))
    share = (first + second) / 2
    probabilities = labels.ensemble(two, x, average="probs").softmax(dim=1)
    torch.testing.assert_close(probabilities, torch.tensor([[share, 1 - share]] * 3))
    torch.testing.assert_close(labels.ensemble(two, x, average="probs").exp().sum(dim=1), torch.ones(3))
    alone = labels.ensemble(two[:1], x, average="probs").softmax(dim=1)
    torch.testing.assert_close(alone, labels.ensemble(two[:1], x, average="logits").softmax(dim=1))
