"""Where tasks run: in this process, or on Ray. Which one changes no byte.

with executor(context) as where:
    where.run(distill.work, tasks, part=Part.TRAINER)
"""

from __future__ import annotations

from teddy_ray.pipeline.context import Context
from teddy_ray.pipeline.executors.base import Executor, Part, Work
from teddy_ray.pipeline.executors.inline import InlineExecutor

__all__ = ["Executor", "InlineExecutor", "Part", "Work", "executor"]


def executor(context: Context) -> Executor:
    """The one that the spec names; Ray is imported, and so needed, only where it is chosen."""
    if context.spec.compute.executor == "inline":
        return InlineExecutor(context)
    from teddy_ray.pipeline.executors.ray import RayExecutor, Site

    return RayExecutor(context, Site(cluster=False, gpus=context.spec.compute.device == "cuda"))
