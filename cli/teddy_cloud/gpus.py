"""What GPUs can do, for estimates: vendors' peaks, and our assumption of how much of a peak a run gets.

speed = speed_of("NVIDIA-H100-80GB-HBM3")
speed.flops_per_second, speed.told
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UTILISATION: Final = 0.2
"""Assumed, not measured: small convolutional networks, with views made on the fly, get this share of a GPU's peak."""
LEAST_STEP_SECONDS: Final = 0.005
"""Assumed: a step this short is spent on starting kernels, however fast the GPU."""
DEFAULT: Final = "A100"

PEAKS: Final = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100-PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A40": 150.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "V100": 15.7,
    "T4": 8.1,
}
"""Peak TFLOP/s by the vendors' data sheets, dense, in the precision that runs use there: bfloat16, where the GPU has
it, else float32. The first name that a GPU's product label has in it counts, so longer names come first."""


@dataclass(frozen=True)
class Speed:
    """How fast steps are taken to be."""

    name: str
    flops_per_second: float
    known: bool
    """Whether the GPU's type was given and is in the table."""

    def seconds(self, flops: float) -> float:
        """A step's, of so many operations."""
        return max(LEAST_STEP_SECONDS, flops / self.flops_per_second)

    @property
    def told(self) -> str:
        """The assumption in words."""
        which = self.name if self.known else f"an {self.name} (no known GPU type was given)"
        return (
            f"assumed, not measured: {which} sustains {self.flops_per_second / 1e12:,.1f} TFLOP/s ({UTILISATION:.0%} of"
            f" its peak), and a step takes at least {LEAST_STEP_SECONDS * 1000:.0f} ms; views are not in it"
        )


def speed_of(gpu_type: str) -> Speed:
    """The speed of a GPU by the label nvidia.com/gpu.product; of an unknown one, the default's."""
    found = next((name for name in PEAKS if name.lower() in gpu_type.lower()), None)
    return Speed(found or DEFAULT, PEAKS[found or DEFAULT] * 1e12 * UTILISATION, known=found is not None)
