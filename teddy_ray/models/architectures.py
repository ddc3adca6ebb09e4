"""The architectures that a spec can name, for base models and for students: ConvNet, and torchvision's.

torchvision's networks begin by shrinking a 224-pixel image; of a 32-pixel one their stem leaves almost nothing. Under
96 pixels each gets the small-image stem that the field uses; the names in its state dict stay torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from teddy_ray.errors import UserError
from teddy_ray.models.convnet import ConvNet

SMALLEST = 8  # pixels: below, the pooling layers run out of map
SMALL_STEM_BELOW = 96  # pixels

Builder = Callable[[int, int], nn.Module]
"""(number of classes, image size) to a model with random weights."""


def build(arch: str, num_classes: int, image_size: int, *, seed: int = 0) -> nn.Module:
    """A model in train mode on the CPU, its weights from ``seed`` alone. Raises UserError for an impossible one."""
    if arch not in ARCHITECTURES:
        raise UserError(f"unknown architecture '{arch}': choose one of {', '.join(ARCHITECTURES)}")
    if image_size < SMALLEST:
        raise UserError(f"{image_size}-pixel images are too small for {arch}: set data.size to {SMALLEST} or more")
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator alone: torch.manual_seed would reseed the GPUs too, and those are not forked.
        torch.default_generator.manual_seed(seed)
        return ARCHITECTURES[arch](num_classes, image_size)


def batchnorms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Every BatchNorm, in the order of registration."""
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


def parameters(model: nn.Module) -> int:
    """How many numbers the model's parameters hold."""
    return sum(parameter.numel() for parameter in model.parameters())


def _with_stem(network: str, small_stem: Callable[[nn.Module], None]) -> Builder:
    def builder(num_classes: int, image_size: int) -> nn.Module:
        # torchvision takes more than a second to import, in every process of a run: only its own networks cost it.
        from torchvision import models

        model: nn.Module = getattr(models, network)(weights=None, num_classes=num_classes)
        if image_size < SMALL_STEM_BELOW:
            small_stem(model)
        return model

    return builder


def _resnet_stem(model: nn.Module) -> None:
    """As in the CIFAR experiments of the ResNet paper: a 3x3 convolution that keeps the size, and no max-pooling."""
    conv = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's ResNets
    model.conv1, model.maxpool = conv, nn.Identity()


def _densenet_stem(model: nn.Module) -> None:
    """A 3x3 convolution that keeps the size, and no pooling before the first dense block."""
    conv = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight)  # as torchvision's DenseNets
    features = model.get_submodule("features")
    features.conv0, features.pool0 = conv, nn.Identity()


def _mobile_stem(model: nn.Module) -> None:
    """The first convolution, already 3x3, keeps the size: the whole network shrinks by 16 instead of 32."""
    _keep_size(model, "features.0.0")


def _shufflenet_stem(model: nn.Module) -> None:
    """The first convolution, already 3x3, keeps the size, and there is no max-pooling: by 8 instead of 32."""
    _keep_size(model, "conv1.0")
    model.maxpool = nn.Identity()


def _keep_size(model: nn.Module, name: str) -> None:
    conv = model.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    conv.stride = (1, 1)


ARCHITECTURES: dict[str, Builder] = {
    "convnet": ConvNet,
    "resnet18": _with_stem("resnet18", _resnet_stem),
    "resnet50": _with_stem("resnet50", _resnet_stem),
    "resnet101": _with_stem("resnet101", _resnet_stem),
    "densenet121": _with_stem("densenet121", _densenet_stem),
    "mobilenet_v2": _with_stem("mobilenet_v2", _mobile_stem),
    "shufflenet_v2": _with_stem("shufflenet_v2_x1_0", _shufflenet_stem),
    "efficientnet_b0": _with_stem("efficientnet_b0", _mobile_stem),
}
