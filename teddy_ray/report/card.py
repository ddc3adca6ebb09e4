"""README.md: the Hugging Face dataset card of the synthetic images and their soft labels."""

from __future__ import annotations

from typing import Any

import jinja2
from torch import Tensor

from teddy_ray.report import tables, text

# The Hub's own size classes (exclusive upper end).
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
NAMED = 50
"""The card names at most so many classes; the images' own metadata name all."""


def render(results: dict[str, Any], images: Tensor) -> str:
    """The card. Whatever the template prints is escaped for Markdown, unless it is Markdown or YAML already."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("teddy_ray.report"),
        autoescape=False,  # noqa: S701 - this is Markdown, and finalize escapes it
        finalize=text.markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        yaml=lambda value: text.Markdown(text.yaml(value)), duration=text.duration, raw=text.Markdown
    )
    environment.globals.update(count=text.count)
    names = results["dataset"]["class_names"]
    return environment.get_template("card.md.j2").render(
        results=results,
        dataset=results["dataset"],
        environment=results["environment"],
        spec=results["spec"],
        blocks=tables.scores_markdown(results),
        tables=tables,
        images=len(images),
        size_category=next((name for most, name in SIZES.items() if len(images) < most), "10M<n<100M"),
        named=names[:NAMED],
        unnamed=max(0, len(names) - NAMED),
        one_seed=all(score["spread"] is None for score in results["scores"]),
    )
