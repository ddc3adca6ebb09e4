"""The report of a run: an HTML page, its tables as Markdown, the results as JSON, and a dataset card.

    files = render(results, images)     # results.json's content and the synthetic images -> bytes by file name

Importing this package imports neither torch nor jinja2 nor matplotlib, so that the command line can use ``tables``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def render(results: dict[str, Any], images: Tensor) -> dict[str, bytes]:
    """The report's files by name; the same input gives the same bytes.

    ``images`` is uint8 (N, 3, H, W) in the published order: image i is of class i mod K.
    """
    from teddy_ray.report import card, page, tables

    texts = {
        "index.html": page.render(results, images),
        "scores.md": tables.markdown(results),
        "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
        "README.md": card.render(results, images),
    }
    # A folder's name need not be Unicode, and then a class name holds lone surrogates: show them, do not fail.
    return {name: text.encode("utf-8", errors="backslashreplace") for name, text in texts.items()}
