"""A step of distil: ours against SRe2L's, against the roofline, and with several members.

Ours draws a crop for every image, where the reference crops the batch as one; both have one model, cross-entropy and
BatchNorm statistics with SRe2L's weights.

Where the time goes now (torch's profiler, ResNet-18, batch 50, one thread with AMX): convolutions 59 % (26 forward, 33
backward), the two compiled graphs' own passes 38 % (BatchNorm, ReLU and statistics, fused), the rest 3 % (crops, Adam).
Arithmetic alone would take half of it: what bounds a step is memory, which all passes between convolutions go through.
A graph keeps each BatchNorm's and each convolution's input for its backward pass, 4.3 bytes for each number that a
BatchNorm sees; the convolutions' are kept since torch's convolution_backward wants them, though frozen weights do not.

Without AMX (an EPYC with avx512_bf16, batch 100, one thread) arithmetic bounds direct convolutions, so 3x3 ones go by
Winograd's filtering. Of a step's 2.6 s theirs is 1.5, a good half of that their products, near the bfloat16 peak, and a
quarter the transforms. Direct ones (stride 2, 1x1, the stem) take 23 %, the compiled passes the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import roofline
import subjects
import torch
from measure import Asked, by_turns, median, thread_counts
from tables import Row
from torch import nn

from teddy_ray.method.optimisation import threads

REPEATS, GPU_REPEATS = 3, 7


def rows(asked: Asked) -> Iterator[Row]:
    """The step at each number of threads, then what members cost."""
    for size in (64, 224) if asked.cuda else (64,):
        for count in thread_counts(asked):
            with threads(count):
                yield from _step(asked, size, count)
    with threads(1):
        yield from _members(asked)


def _step(asked: Asked, size: int, threads_: int) -> Iterator[Row]:
    batch = asked.size(100, 8)
    model = subjects.network(asked, size)
    ours = subjects.synthesis(asked, [model], batch=batch, size=size)
    theirs = subjects.recovery(asked, model, batch=batch, size=size)
    dtype = subjects.dtype(asked)
    before = roofline.measured(asked.device, dtype, tiny=asked.tiny)
    seconds = by_turns(
        _steps(ours, asked),
        _steps(theirs, asked),
        repeats=asked.size(GPU_REPEATS if asked.cuda else REPEATS, 2),
        device=asked.device,
    )
    one, reference = (median(found) / _count(asked) for found in seconds)
    name = f"step, {_named(asked)}, {size}x{size}, batch {batch}, {threads_} thread{'s' * (threads_ > 1)}"
    peaks = before.best(roofline.measured(asked.device, dtype, tiny=asked.tiny))
    work = roofline.asks("match", model, (batch, 3, size, size), element=dtype.itemsize)
    common: dict[str, Any] = {"part": "distill", "n": len(seconds.ours), "threads": threads_}
    facts = {"GFLOP": work.flops / 1e9, "least GB": work.bytes / 1e9, **peaks.facts(), "precision": str(dtype)}
    yield Row(
        name=f"{name}: times as fast as SRe2L's",
        ratio=reference / one,
        unit="s",
        ours=one,
        reference=reference,
        at_least=_faster(asked, size),
        more={"ours": seconds.ours, "reference": seconds.reference, "compiled": asked.compiled, **facts},
        **common,
    )
    for of in dict.fromkeys((torch.float32, dtype)):
        floor = peaks.floor(work, of)
        wanted = 0.5 if asked.cuda and size == 64 else None if asked.cuda or subjects.bfloat16(asked) else 0.8
        yield Row(
            name=f"{name}: share of the {str(of).removeprefix('torch.')} roofline",
            ratio=floor / one,
            unit="s",
            ours=one,
            reference=floor,
            at_least=wanted if of == dtype else None,
            more=facts,
            **common,
        )


def _members(asked: Asked) -> Iterator[Row]:
    """n models a step over n times one; and a pool of which each step takes another over one member again and again."""
    batch, repeats = asked.size(100 if asked.cuda else 20, 4), asked.size(9, 3)
    pool = [subjects.network(asked, 64, seed=seed) for seed in range(5)]

    def unit(members: list[nn.Module], n: int) -> Any:
        return _steps(subjects.synthesis(asked, members, batch=batch, size=64, models_per_step=n), asked)

    name = f"{_named(asked)}, 64x64, batch {batch}"
    for n in (2, 5):
        found = by_turns(unit(pool, n), unit(pool, 1), repeats=repeats, device=asked.device)
        yield _ratio(asked, f"{name}: {n} members a step over {n} times one", found, scale=n)
    before = _graphs()
    found = by_turns(unit(pool, 1), unit(pool[:1], 1), repeats=repeats, device=asked.device, warm=3)
    made = _graphs() - before
    yield _ratio(asked, f"{name}: another of 5 members each step over the same", found, scale=1, graphs=made)


def _ratio(asked: Asked, name: str, found: Any, *, scale: int, **more: Any) -> Row:
    """At most 1; 2 % are left for noise."""
    ours, reference = (median(part) / _count(asked) for part in found)
    return Row(
        part="members", name=name, ratio=ours / (scale * reference), unit="s", ours=ours, reference=reference,
        at_most=1.02, n=len(found.ours), threads=torch.get_num_threads(),
        more={"ours": found.ours, "reference": found.reference, **more},
    )  # fmt: skip


def _graphs() -> int:
    """Graphs that torch has compiled so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _steps(of: Any, asked: Asked) -> Any:
    def some() -> None:
        for _ in range(_count(asked)):
            of.step()

    return some


def _count(asked: Asked) -> int:
    """Steps that are timed together: on a GPU many, since nothing of ours waits for it between them."""
    return 20 if asked.cuda else 1


def _faster(asked: Asked, size: int) -> float:
    if asked.cuda:
        return 5.0 if size == 64 else 4.0
    return 4.0 if subjects.bfloat16(asked) else 2.3


def _named(asked: Asked) -> str:
    return "ConvNet (tiny)" if asked.tiny else "ResNet-18"
