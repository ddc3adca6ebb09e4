"""What malloc and the kernel are told of a process that trains; each in a process of its own, since it stays told."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc is told on Linux alone")


def said(code):
    told = f"from teddy_ray.pipeline.memory import keep_freed; keep_freed(); keep_freed()\n{code}"
    return subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=60).stdout


AGAIN = """
import resource
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = b"1" * (64 << 20)
del block
before = faults()
block = b"2" * (64 << 20)
print(faults() - before)
"""


def test_a_block_that_was_freed_costs_no_page_fault_again():
    assert int(said(AGAIN)) < 100  # of 16,384 small pages


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel was built without huge pages"
)
def test_the_heap_is_to_be_on_huge_pages_and_takes_no_memory_for_it():
    heaps = said("print(open('/proc/self/smaps').read())").split("[heap]")[1:]
    (huge,) = [heap for heap in heaps if "hg" in heap.partition("VmFlags:")[2].partition("\n")[0].split()]
    kib = {line.split()[0]: int(line.split()[1]) for line in huge.splitlines() if line.endswith(" kB")}
    assert kib["Size:"] > 4 << 20
    assert kib["Rss:"] < 100_000
