"""Units: the smallest independent pieces of distillation, the same however many workers there are."""

from __future__ import annotations

from dataclasses import dataclass

from teddy_ray.spec import DistillSpec


@dataclass(frozen=True)
class Unit:
    """A block of classes x a slice of IPC, optimised as one batch. An image's number is slot · K + class."""

    classes: range
    slots: range

    @property
    def name(self) -> str:
        return f"c{self.classes.start:04d}-s{self.slots.start:04d}"

    @property
    def class_slots(self) -> list[tuple[int, int]]:
        return [(class_, slot) for slot in self.slots for class_ in self.classes]

    def images(self, total_classes: int) -> list[int]:
        return [slot * total_classes + class_ for class_, slot in self.class_slots]


def units(classes: int, spec: DistillSpec) -> list[Unit]:
    """All units: as many classes as fit into ``unit_images``, then as many slots as fit. A larger IPC appends units."""
    block = min(classes, spec.unit_images)
    slice_ = max(1, spec.unit_images // block)
    return [
        Unit(range(c, min(c + block, classes)), range(s, min(s + slice_, spec.ipc)))
        for s in range(0, spec.ipc, slice_)
        for c in range(0, classes, block)
    ]
