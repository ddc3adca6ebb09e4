"""Structural pruning: whole channels leave, layers become narrower, and what is left is an ordinary dense model.

torch_pruning's dependency graph (DepGraph, https://arxiv.org/abs/2301.12900) finds which layers' channels must leave
together; which of them leave is decided here. ``fit_to_state`` is the way back from a stored state dict.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from teddy_ray.errors import UserError
from teddy_ray.models.convnet import ConvNet

if TYPE_CHECKING:
    import torch_pruning

WIDE = 64  # layers of at least so many channels keep a multiple of 8, which matrix units and SIMD lanes want

LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)  # all that have weights, in all our architectures


def prune(model: nn.Module, image_size: int, *, ratio: float, noise: float, seed: int) -> nn.Module:
    """A copy in eval mode without the ``ratio`` of every prunable layer's channels whose weights are smallest.

    A channel's importance is multiplied by exp(noise * a normal number from ``seed``): other seeds keep other channels.
    Weights that stay are unchanged, and so are the BatchNorm statistics, which therefore need a new estimate.
    """
    import torch_pruning  # with torchvision, more than a second that only pruning should cost

    pruned = copy.deepcopy(model).eval().requires_grad_(True)  # the graph is traced through autograd
    generator = torch.Generator().manual_seed(seed)
    for part, example, last in _parts(pruned, image_size):
        with torch.enable_grad():
            graph = torch_pruning.DependencyGraph().build_dependency(part, (example,))
        _prune_groups(graph, last, ratio=ratio, noise=noise, generator=generator)
    for name, parameter in model.named_parameters():
        pruned.get_parameter(name).requires_grad_(parameter.requires_grad)
    return pruned


def fit_to_state(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """``model``, freshly built, its layers narrowed in place to ``state``'s shapes, and with its values.

    Raises UserError, naming the first key that is missing, unknown or of a shape that this architecture cannot have.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LAYERS)}
    own = {key: tensor.shape for key, tensor in model.state_dict().items()}
    _check_keys(own, state)
    _check_shapes(layers, state)
    for name, layer in layers.items():
        _narrow(layer, {key: state[f"{name}.{key}"].shape for key in _tensors(layer) if f"{name}.{key}" in state})
    _check_flow(model, layers, own)
    model.load_state_dict(dict(state))
    return model


def kept_channels(channels: int, ratio: float) -> int:
    """How many of a layer's channels stay: at least 1, and a multiple of 8 in a wide layer where one is near."""
    kept = max(1, channels - max(1, round(channels * ratio)))
    rounded = 8 * round(kept / 8)
    return rounded if channels >= WIDE and 0 < rounded < channels else kept


def _parts(model: nn.Module, image_size: int) -> Iterator[tuple[nn.Module, Tensor, nn.Module]]:
    """Whatever is pruned by itself, as (part, example input, its last layer, whose outputs stay)."""
    from torchvision.models import ShuffleNetV2

    if not isinstance(model, ShuffleNetV2):
        last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
        yield model, _example(model, 3, image_size), last
        return
    # A channel shuffle couples every channel of a stage with every other, and torch_pruning cannot follow it. So the
    # widths between units stay, and each unit is narrowed inside, as is the last convolution before the classifier.
    for name, unit in model.named_modules():
        if name.endswith(".branch2"):
            first, last = unit.get_submodule("0"), unit.get_submodule("5")
            assert isinstance(first, nn.Conv2d)
            yield unit, _example(unit, first.in_channels, image_size), last
    head = nn.Sequential(model.conv5, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc)
    yield head, _example(head, model.conv5[0].in_channels, image_size), model.fc


def _example(part: nn.Module, channels: int, image_size: int) -> Tensor:
    return torch.zeros(1, channels, image_size, image_size, device=next(part.parameters()).device)


def _prune_groups(
    graph: torch_pruning.DependencyGraph, last: nn.Module, *, ratio: float, noise: float, generator: torch.Generator
) -> None:
    import torch_pruning

    importance = torch_pruning.importance.GroupMagnitudeImportance()
    groups = list(graph.get_all_groups(ignored_layers=[last], root_module_types=(nn.Conv2d, nn.Linear)))
    # All scores before any pruning: a group that is pruned takes weights from its neighbours' scores.
    scores = [importance(group).cpu() for group in groups]
    for group, score_C in zip(groups, scores, strict=True):
        jittered_C = score_C * torch.exp(noise * torch.randn(len(score_C), generator=generator))
        leaving = len(score_C) - kept_channels(len(score_C), ratio)
        if leaving > 0:
            group.prune(jittered_C.argsort(stable=True)[:leaving].tolist())


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's own parameters and buffers, by name."""
    return {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers(recurse=False))}


def _check_keys(own: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> None:
    # Checkpoints from before BatchNorm counted its batches lack the count; torch then begins at 0.
    lacking = [key for key in own if key not in state and not key.endswith(".num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    if lacking:
        raise _misfit(lacking[0], "absent", _words(own[lacking[0]]))
    if unknown:
        raise _misfit(unknown[0], _words(state[unknown[0]].shape), "absent")


def _check_shapes(layers: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> None:
    """Layers may be narrower than built, but not wider; kernels and the classifier's outputs are as built."""
    classifier = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)][-1]
    for name, layer in layers.items():
        for key, tensor in _tensors(layer).items():
            shape, own = state.get(f"{name}.{key}", tensor).shape, tensor.shape
            if not _narrower(shape, own) or (name == classifier and shape[0] != own[0]):
                raise _misfit(f"{name}.{key}", _words(shape), _words(own))
            length = state[f"{name}.weight"].shape[0]
            if tensor.dim() and shape[0] != length:
                raise _misfit(f"{name}.{key}", _words(shape), f"as long as {name}.weight ({length})")


def _narrower(shape: torch.Size, own: torch.Size) -> bool:
    channels = zip(shape[:2], own[:2], strict=False)
    return len(shape) == len(own) and shape[2:] == own[2:] and all(0 < here <= there for here, there in channels)


def _narrow(layer: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    for key, shape in shapes.items():
        tensor = _tensors(layer)[key]
        empty = tensor.new_empty(shape)
        setattr(layer, key, nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty)
    width = shapes["weight"]
    if isinstance(layer, nn.BatchNorm2d):
        layer.num_features = width[0]
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = width
    elif isinstance(layer, nn.Conv2d):
        if layer.groups > 1:  # depthwise, in all our architectures: one channel a group
            layer.groups = width[0]
        layer.out_channels, layer.in_channels = width[0], width[1] * layer.groups


def _check_flow(model: nn.Module, layers: Mapping[str, nn.Module], own: Mapping[str, torch.Size]) -> None:
    """Send one image through in shapes alone: layers that are each possible may still not follow one another."""
    size = model.image_size if isinstance(model, ConvNet) else 32  # the others take any
    shapes = {key: tensor.to("meta") for key, tensor in model.state_dict().items()}
    entered: list[str] = []
    hooks = [layer.register_forward_pre_hook(lambda *_, n=name: entered.append(n)) for name, layer in layers.items()]
    training = model.training
    try:
        torch.func.functional_call(model.eval(), shapes, (torch.zeros(1, 3, size, size, device="meta"),))
    except RuntimeError as error:
        key = f"{entered[-1]}.weight"
        raise _misfit(key, _words(shapes[key].shape), _words(own[key]), why=f" ({error})") from error
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


def _misfit(key: str, state: str, model: str, *, why: str = "") -> UserError:
    return UserError(
        f"the state dict does not fit the model: '{key}' is {state} in the state dict and {model} in the model{why};"
        " it must come from the same architecture, number of classes and image size"
    )


def _words(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "one number"
