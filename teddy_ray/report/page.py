"""index.html: one self-contained page (inline CSS, drawings and pictures; no script, nothing fetched)."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup
from torch import Tensor

from teddy_ray.report import plots, tables, text
from teddy_ray.report.sheet import contact_sheet, shrink

PICTURES = 200
"""The page shows at most so many synthetic images."""
SIDE = 96
"""Larger images are shown at this size, in pixels."""
PICTURE_BYTES = 2_600_000
"""All pictures together, uncompressed: images near noise do not compress, and a page stays below 5 MB."""
MEMBERS = 40
"""The page lists at most so many members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A class and its pictures."""

    name: str
    source: str
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The accuracies, in percent, that the ends of a row's axis stand for."""

    low: int
    high: int

    def at(self, value: float) -> str:
        """How far from the left ``value`` lies, in CSS."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(share, 0), 1):.2f}%"

    def rest(self, value: float) -> str:
        """How far from the right ``value`` lies, in CSS."""
        share = (self.high - value) / (self.high - self.low)
        return f"{100 * min(max(share, 0), 1):.2f}%"


def render(results: dict[str, Any], images: Tensor) -> str:
    """The page. ``images`` is uint8 (N, 3, H, W), image i of class i mod K."""
    names, ipc = results["dataset"]["class_names"], results["spec"]["distill"]["ipc"]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("teddy_ray.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=text.duration, svg=Markup, percent=lambda value: f"{value:.1f}")
    environment.globals.update(count=text.count, scale_of=_scale, whole=Scale(low=0, high=100))
    rows = _pictures(images, names, ipc)
    return environment.get_template("index.html.j2").render(
        results=results,
        tables=tables,
        plots=plots,
        spec_toml=text.toml(results["spec"]),
        pictures=rows,
        pictures_note=_pictures_note(len(rows), len(names), ipc),
        tiles=_per_class(len(names), ipc) == 1,
        members=results["members"][:MEMBERS],
        total_seconds=sum(results["seconds"].values()),
    )


def _scale(results: tables.Results, student: str) -> Scale:
    """From the ten below a student's lowest score to the ten above the highest, so that small gaps show."""
    own = [row for row in tables.rows(results) if row.student == student]
    low, high = (
        min(row.value - (row.deviation or 0) for row in own),
        max(row.value + (row.deviation or 0) for row in own),
    )
    low, high = 10 * math.floor(max(low, 0) / 10), 10 * math.ceil(min(high, 100) / 10)
    return Scale(low=min(low, 90), high=max(high, low + 10))


def _per_class(classes: int, ipc: int) -> int:
    """Images shown of each class: ten, or more where there are few classes."""
    return min(ipc, max(10, PICTURES // classes))


def _pictures(images: Tensor, names: Sequence[str], ipc: int) -> list[Row]:
    """A contact sheet for each of the first classes."""
    each = _per_class(len(names), ipc)
    shown = min(len(names), PICTURES // each)
    side = min(SIDE, math.isqrt(PICTURE_BYTES // (3 * shown * each)))
    rows = []
    for label, name in enumerate(names[:shown]):
        small = shrink(images[label :: len(names)][:each], side=side)
        sheet = contact_sheet(small, columns=10)
        source = "data:image/png;base64," + base64.b64encode(sheet).decode()
        rows.append(Row(name=name, source=source, width=int.from_bytes(sheet[16:20], "big")))
    return rows


def _pictures_note(shown: int, classes: int, ipc: int) -> str:
    each = _per_class(classes, ipc)
    images = "every image" if each == ipc else f"the first {each} of {ipc} images"
    return f"{images} of " + ("every class" if shown == classes else f"the first {shown} of {classes:,} classes")
