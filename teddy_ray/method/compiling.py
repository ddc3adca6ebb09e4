"""torch.compile, with the settings under which a compiled function is still a function of its arguments alone.

    compiled(eq7)(teacher, x, y, weights)

Shapes are burnt into a graph and weights are not, so a pool whose members have one shape shares one graph.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., object])

GRAPHS = 256
"""Of one function: each architecture, batch size and kind of labels has its own, and by itself torch refuses
more than 8. It raises then (``fullgraph``): going on uncompiled would make other bytes than the address says."""


@functools.cache
def compiled(function: F) -> F:
    """``function`` compiled when it is first called with arguments of a new shape, which takes seconds to a minute."""
    import torch._dynamo.config
    import torch._inductor.config
    import torch.compiler.config

    torch._dynamo.config.recompile_limit = GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = GRAPHS
    # Graphs are compiled in this process: torch's own pool of processes would outlive a worker that is ended.
    torch._inductor.config.compile_threads = 1
    # torch's cache does not tell one CPU's vectors from another's that shares it, and would write past tensors' ends.
    torch.compiler.config.cache_key_tag = torch.backends.cpu.get_cpu_capability()
    return cast(F, torch.compile(function, dynamic=False, fullgraph=True))


def compiler() -> str:
    """The C++ compiler's command, as torch.compile chooses it."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds here what it needs: a C++ compiler, Python's headers, a cache that can be written to,
    and Triton for a GPU."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    triton = device.type == "cpu" or importlib.util.find_spec("triton") is not None
    cache = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()).absolute()
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return shutil.which(compiler()) is not None and headers.exists() and triton and os.access(place, os.W_OK)
