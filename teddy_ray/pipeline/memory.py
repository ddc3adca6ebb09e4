"""Keep freed memory for the next step, instead of handing it back to the kernel and faulting it in again.

A training step on a CPU frees and allocates the same large blocks every time; glibc maps and unmaps each of them, and
the kernel clears every page anew. On a ConvNet at 64x64 (batch 50, bfloat16, one thread, a CPU with AMX) a step took
0.40 s of CPU time before and 0.26 s after (medians of 5).

What is kept is walked through at every step, and small pages cost lookups. On huge ones a step (batch 100) took 0.49 s
instead of 0.59 on one thread and 0.28 instead of 0.33 on two (medians of 12 steps, three processes each, by turns); the
first, which the kernel clears them for, 1 to 1.5 s more.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys

# glibc's names for mallopt's parameters, from malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1

_HEAP = 8 << 30
"""Bytes of address space, not of memory: the heap of a process that trains is seldom larger."""


@functools.cache
def keep_freed() -> None:
    """Tell this process's malloc never to map a block of its own nor to trim its heap, and the kernel to back the heap
    with huge pages. Only glibc understands."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        _on_huge_pages(libc)


def _on_huge_pages(libc: ctypes.CDLL) -> None:
    """Mark what the heap will grow into: a block that is taken and given back untouched, which costs no memory.

    A kernel that does not do huge pages on request refuses, and nothing is lost.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    block = libc.malloc(_HEAP)
    if block is None:  # a limit on address space
        return
    start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(_HEAP - mmap.PAGESIZE), mmap.MADV_HUGEPAGE)
    libc.free(block)
