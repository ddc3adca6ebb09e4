"""The paper's theory, in float64 on tiny models: where its expansion holds, and what Eq. 7 stands for."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from teddy_ray.method.matching import Teacher, Weights, class_distance, distance, eq7
from teddy_ray.method.statistics import batch_statistics

INPUTS, HIDDEN, CLASSES = 5, 12, 3


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- The Taylor expansion: l(T, θ_S^(T)) and gradients along the synthetic trajectory ---


def mlp(scale):
    """The weights of a tanh network, as one flat vector."""
    return scale * numbers(INPUTS * HIDDEN + HIDDEN * CLASSES, seed=1)


def loss(theta, data):
    x, y = data
    first, last = theta[: INPUTS * HIDDEN].view(INPUTS, HIDDEN), theta[INPUTS * HIDDEN :].view(HIDDEN, CLASSES)
    return functional.cross_entropy(torch.tanh(x @ first) @ last, y)


def gradient(theta, data):
    theta = theta.detach().requires_grad_(True)
    return torch.autograd.grad(loss(theta, data), theta)[0]


@pytest.fixture
def real():
    x = numbers(60, INPUTS, seed=2)
    return x, (x[:, :CLASSES] + 0.1 * x[:, :CLASSES].roll(1, 1) ** 2).argmax(dim=1)


@pytest.fixture
def synthetic(real):
    """A few real points, moved a little: a set that leads roughly where the real one does."""
    x, y = real
    return x[:12] + 0.1 * numbers(12, INPUTS, seed=3), y[:12]


def trajectory(theta, synthetic, alpha, steps):
    """Gradient descent on the synthetic set: θ^(0) … θ^(steps)."""
    points = [theta]
    for _ in range(steps):
        points.append(points[-1] - alpha * gradient(points[-1], synthetic))
    return points


def telescoped_error(real, synthetic, alpha, steps=15):
    points = trajectory(mlp(0.5), synthetic, alpha, steps)
    inner = sum(gradient(point, real) @ gradient(point, synthetic) for point in points[:-1])
    return float(abs(loss(points[-1], real) - (loss(points[0], real) - alpha * inner)))


def test_the_telescoped_expansion_errs_by_alpha_squared(real, synthetic):
    alphas = [0.01, 0.003, 0.001, 0.0003]
    errors = [telescoped_error(real, synthetic, alpha) for alpha in alphas]
    slope, _ = np.polyfit(np.log(alphas), np.log(errors), 1)
    assert slope == pytest.approx(2.0, abs=0.05)
    assert telescoped_error(real, synthetic, 0.1) > 0.01  # an approximation, not the equality that the poster prints


@pytest.mark.parametrize("alpha", [0.1, 0.01])
def test_the_first_dropped_term_is_half_the_curvature_along_the_step(real, synthetic, alpha):
    theta = mlp(0.5)
    step = alpha * gradient(theta, synthetic)
    missing = loss(theta - step, real) - (loss(theta, real) - gradient(theta, real) @ step)
    _, curved = torch.autograd.functional.hvp(lambda point: loss(point, real), theta, step)
    assert float(missing / (0.5 * step @ curved)) == pytest.approx(1.0, abs=alpha)


def segment(real, synthetic, theta, steps, alpha):
    """The true change of the real loss over a segment, and the change that one real gradient at its start predicts."""
    points = trajectory(theta, synthetic, alpha, steps)
    moved = alpha * sum(gradient(point, synthetic) for point in points[:-1])
    return float(loss(points[-1], real) - loss(theta, real)), float(-gradient(theta, real) @ moved)


def ratios(real, synthetic, scale, alpha):
    """True over predicted change, after 1, 5, 10 and 50 steps; both are to be a fall."""
    pairs = [segment(real, synthetic, mlp(scale), steps, alpha) for steps in (1, 5, 10, 50)]
    assert all(true < 0 and predicted < 0 for true, predicted in pairs)
    return [true / predicted for true, predicted in pairs]


def test_a_segment_has_the_right_sign_and_ever_more_too_small_a_size_where_training_begins(real, synthetic):
    """Near a small start gradients grow as training goes on, and the one at the segment's beginning says too little."""
    found = ratios(real, synthetic, 0.02, 0.1)
    assert found[0] == pytest.approx(1.0, abs=0.02)
    assert found[1] > found[0] + 0.05
    assert found[2] > found[1] + 0.1
    assert found[3] > 2.0


def test_a_segment_has_the_right_sign_and_ever_more_too_large_a_size_where_gradients_shrink(real, synthetic):
    """Further on it says too much: a segment's teacher gives a direction, and no calibrated size, either way."""
    found = ratios(real, synthetic, 0.5, 0.1)
    assert found[0] == pytest.approx(1.0, abs=0.1)
    assert found == sorted(found, reverse=True)
    assert found[3] < 0.6


# --- From gradients to statistics ---


@pytest.fixture
def features():
    """Correlated and not centred, as features are: (n, d), with labels (n,)."""
    y = torch.randint(CLASSES, (50,), generator=torch.Generator().manual_seed(4))
    x = numbers(50, 6, seed=5) @ numbers(6, 6, seed=6) + 0.7
    return x + functional.one_hot(y, CLASSES).double() @ numbers(CLASSES, 6, seed=7), y


def head_gradient(features, y, w):
    """By autograd, of the mean squared loss of a linear head."""
    w = w.clone().requires_grad_(True)
    value = 0.5 * (features @ w - functional.one_hot(y, CLASSES)).square().sum(dim=1).mean()
    return torch.autograd.grad(value, w)[0]


def first_and_second_part(features, y, w):
    """(Cov + μμᵀ) W and [π_c μ_c], each (d, classes)."""
    mean = features.mean(dim=0)
    covariance = torch.cov(features.T, correction=0)
    shares = [(y == c).double().mean() for c in range(CLASSES)]
    class_part = torch.stack([share * features[y == c].mean(dim=0) for c, share in enumerate(shares)], dim=1)
    return (covariance + torch.outer(mean, mean)) @ w, class_part


def test_a_linear_heads_gradient_is_second_moments_less_class_means(features):
    x, y = features
    w = numbers(6, CLASSES, seed=8)
    second_moments, class_means = first_and_second_part(x, y, w)
    torch.testing.assert_close(head_gradient(x, y, w), second_moments - class_means, rtol=0, atol=1e-10)


def test_the_posters_diagonal_form_needs_whitened_features(features):
    x, y = features
    w = numbers(6, CLASSES, seed=8)
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    whitened = (x - x.mean(dim=0)) @ eigenvectors / eigenvalues.sqrt()

    def relative_error(x):
        exact, _ = first_and_second_part(x, y, w)
        diagonal = x.var(dim=0, correction=0)[:, None] * w
        return float((diagonal - exact).norm() / exact.norm())

    assert relative_error(whitened) < 1e-10
    assert relative_error(x) > 0.2


def test_statistics_are_blind_to_labels_and_class_means_are_not(features):
    """Permuted labels leave the gradient's first part alone, and change its second: so do Eq. 7's terms."""
    x, y = features
    permuted = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(9))]
    w = numbers(6, CLASSES, seed=8)
    first, second = first_and_second_part(x, y, w)
    first_permuted, second_permuted = first_and_second_part(x, permuted, w)
    assert torch.equal(first, first_permuted)
    assert (second - second_permuted).norm() > 0.1 * second.norm()

    means = torch.stack([x[y == c].mean(dim=0) for c in range(CLASSES)])
    assert class_distance(x, y, means) < 1e-10
    assert class_distance(x, permuted, means) > 0.1

    teacher = Teacher(*with_example(Plain()), class_means_KD=numbers(CLASSES, 4, seed=10))
    images, labels = 5 * numbers(6, 3, 5, 5, seed=11), torch.tensor([0, 0, 1, 1, 2, 2])
    here, there = (eq7(teacher, images, y, Weights(class_means=1.0)) for y in (labels, labels.roll(1)))
    assert torch.equal(here.statistics, there.statistics)
    assert not torch.isclose(here.classification, there.classification, rtol=1e-3)
    by_class = [seen.total - seen.statistics - seen.classification for seen in (here, there)]
    assert not torch.isclose(*by_class)


def test_classes_that_a_batch_lacks_have_no_say():
    x, y = numbers(4, 3, seed=12).requires_grad_(True), torch.tensor([1, 1, 4, 4])
    means = numbers(6, 3, seed=13)
    apart = [(x[y == c].mean(dim=0) - means[c]).norm() for c in (1, 4)]
    told = class_distance(x, y, means)
    torch.testing.assert_close(told, (apart[0] + apart[1]) / 2, rtol=0, atol=1e-12)
    assert torch.autograd.grad(told, x)[0].isfinite().all()


# --- Eq. 7 itself ---


class Plain(nn.Module):
    """Two BatchNorms, whose channel counts pruning would change."""

    def __init__(self, channels=(5, 4)):
        super().__init__()
        first, second = channels
        self.one, self.two = nn.Conv2d(3, first, 3), nn.Conv2d(first, second, 3)
        self.norm_one, self.norm_two = nn.BatchNorm2d(first), nn.BatchNorm2d(second)
        self.head = nn.Linear(second, CLASSES)

    def forward(self, x):
        x = torch.relu(self.norm_one(self.one(x)))
        return self.head(torch.relu(self.norm_two(self.two(x))).mean(dim=(2, 3)))


class Backwards(nn.Module):
    """Layers that are registered in another order than they run in."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, CLASSES)
        self.late, self.early = nn.BatchNorm2d(3), nn.BatchNorm2d(7)
        self.second, self.first = nn.Conv2d(7, 3, 2, stride=2), nn.Conv2d(3, 7, 3, padding=1)

    def forward(self, x):
        x = torch.tanh(self.early(self.first(x)))
        return self.head(torch.tanh(self.late(self.second(x))).mean(dim=(2, 3)))


def with_example(model):
    """A model with telling weights, float64, and an image batch."""
    with torch.no_grad():
        for index, (name, tensor) in enumerate(model.state_dict().items()):
            if tensor.is_floating_point():
                tensor.copy_(0.7 * numbers(*tensor.shape, seed=100 + index))
            if name.endswith("running_var"):
                tensor.square_().add_(0.3)
    return model, numbers(2, 3, 5, 5)


def slow_eq7(model, norms, x, y, *, statistics, u, first):
    """Eq. 7 in loops of plain numbers; ``norms`` are the BatchNorms in the order in which they run."""
    seen = {}
    handles = [
        norm.register_forward_hook(lambda module, inputs, _: seen.update({module: inputs[0].detach().numpy()}))
        for norm in norms
    ]
    with torch.no_grad():
        logits = model(x).numpy()
    for handle in handles:
        handle.remove()
    matched = 0.0
    for layer, norm in enumerate(norms):
        batch, channels, height, width = seen[norm].shape
        apart_mean = apart_variance = 0.0
        for c in range(channels):
            values = [float(seen[norm][b, c, i, j]) for b in range(batch) for i in range(height) for j in range(width)]
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
            apart_mean += (mean - float(norm.running_mean[c])) ** 2
            apart_variance += (variance - float(norm.running_var[c])) ** 2
        matched += (first if layer == 0 else 1.0) * (apart_mean**0.5 + apart_variance**0.5)
    entropy = 0.0
    for row, label in zip(logits, y.tolist(), strict=True):
        entropy -= (row[label] - np.log(np.exp(row).sum())) / len(y)
    return statistics * matched + u * entropy, matched, entropy


@pytest.mark.parametrize(
    ("first", "u", "statistics"), [(1.0, 1.0, 1.0), (10.0, 1.0, 1.0), (1.0, 0.01, 2.5), (0.0, 7.0, 0.0)]
)
@pytest.mark.parametrize("build", [Plain, lambda: Plain((4, 2)), lambda: Plain((2, 3)), Backwards])
def test_eq7_is_its_formula(build, first, u, statistics):
    model, example = with_example(build())
    norms = [model.early, model.late] if isinstance(model, Backwards) else [model.norm_one, model.norm_two]
    x, y = 2 * numbers(4, 3, 6, 6, seed=15) + 0.3, torch.tensor([2, 0, 1, 1])
    teacher = Teacher(model, example)
    loss = eq7(teacher, x, y, Weights(statistics=statistics, classification=u, first_layer=first))
    slow = slow_eq7(model, norms, x, y, statistics=statistics, u=u, first=first)
    assert [float(part) for part in loss] == pytest.approx(slow, abs=1e-10)


def test_eq7s_gradient_is_that_of_finite_differences():
    teacher = Teacher(*with_example(Backwards()), class_means_KD=numbers(CLASSES, 3, seed=16))
    y, weights = torch.tensor([0, 2]), Weights(0.7, 1.3, 10.0, 0.5)
    x = numbers(2, 3, 4, 4, seed=17).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda images: eq7(teacher, images, y, weights).total, x, eps=1e-6, atol=1e-6)


def test_matched_statistics_are_the_minimum_and_the_pull_does_not_fade_near_it():
    """The norm is not squared: its gradient has one size at any distance, where a square's would shrink to zero."""
    remembered = [batch_statistics(numbers(8, 3, 4, 4, seed=18))]
    assert float(distance(remembered, remembered, first_layer_weight=1.0)) == 0
    for apart in (1e-6, 1.0, 1e6):
        mean = (remembered[0][0] + apart).requires_grad_(True)
        (pull,) = torch.autograd.grad(distance([(mean, remembered[0][1])], remembered, first_layer_weight=1.0), mean)
        assert float(pull.norm()) == pytest.approx(1.0)


def test_a_teacher_freezes_its_model_and_leaves_no_hooks_on_it():
    model, example = with_example(Plain().train())
    teacher = Teacher(model, example)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = numbers(3, 3, 6, 6).requires_grad_(True)
    eq7(teacher, x, torch.tensor([0, 1, 2]), Weights()).total.backward()
    assert x.grad is not None
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_the_inner_product_is_unbounded_and_the_distance_is_not_scale_free(real, synthetic):
    """What the expansion maximises and what matching minimises are one only for gradients of fixed length."""
    theta = mlp(0.5)
    g_t, g_s = gradient(theta, real), gradient(theta, synthetic)
    inner = [float(g_t @ (scale * g_s)) for scale in (1, 10, 100)]
    apart = [float((g_t - scale * g_s).square().sum()) for scale in (1, 10, 100)]
    assert inner == pytest.approx([inner[0], 10 * inner[0], 100 * inner[0]])
    assert inner[0] > 0
    assert apart[0] < apart[1] < apart[2]  # the longer gradient is better by the one, and worse by the other
    assert apart[0] == pytest.approx(float(g_t @ g_t + g_s @ g_s) - 2 * inner[0])
