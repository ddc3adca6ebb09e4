"""Which work is compiled: what looks at so many images that torch.compile's own seconds do not count."""

from __future__ import annotations

from typing import Final

from teddy_ray.pipeline.context import Context
from teddy_ray.pipeline.counts import Step
from teddy_ray.pipeline.flops import flops

LEAST_FLOPS: Final = {"cpu": 3e13, "cuda": 1e15}
"""Of a task. CPU: between what pays back the compiling of ConvNet, 2e13 in 27 s, and of ResNet-18, 9e13 in 52 s, once,
by the steps' seconds with and without on a core with bfloat16; a GPU's is assumed. Of a stage's tasks only a process's
first one compiles."""


def compiled(context: Context, step: Step, arch: str, *, images: int) -> bool:
    """Whether a task that takes ``images`` images through ``arch`` is compiled.

    It changes bytes, so it follows from the spec and the data alone, and is part of the artifact's address.
    """
    compute = context.spec.compute
    if compute.compile != "large":
        return compute.compile == "always"
    each = flops(step, arch, classes=context.real.classes, size=context.real.size[0])
    return images * each >= LEAST_FLOPS[compute.device]
