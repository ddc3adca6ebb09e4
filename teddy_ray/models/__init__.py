"""Models by name, built from a seed, pruned, and loaded without pickle.

    model = build("resnet18", num_classes=10, image_size=32, seed=7)
    member = prune(model, 32, ratio=0.3, noise=0.3, seed=1)
    same = fit_to_state(build("resnet18", 10, 32), member.state_dict())

Every normalisation layer is a BatchNorm2d, since the method matches their statistics.
"""

from __future__ import annotations

from teddy_ray.models.architectures import ARCHITECTURES, batchnorms, build, parameters
from teddy_ray.models.checkpoint import load_state
from teddy_ray.models.pruning import fit_to_state, prune

__all__ = ["ARCHITECTURES", "batchnorms", "build", "fit_to_state", "load_state", "parameters", "prune"]
