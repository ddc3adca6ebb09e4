"""report: what people look at: the dataset and its labels under their own names, the page, the card, the tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from teddy_ray import report
from teddy_ray.pipeline.context import Context
from teddy_ray.pipeline.imagesets import read
from teddy_ray.pipeline.results import Made, Results
from teddy_ray.store.records import File


def write(context: Context, folder: str, results: Results, made: Made) -> dict[str, Any]:
    """Write everything into the run's folder; where each published file is and what its bytes are, for the manifest."""
    published = {f"dataset/data/{name}": file for name, file in made.sets["distilled"].files.items()}
    count = len(made.labels["distilled"])
    for index, shard in enumerate(made.labels["distilled"]):
        published[f"labels/labels-{index:05d}-of-{count:05d}.parquet"] = shard.files["labels.parquet"]
    for name, file in published.items():
        context.store.copy(file.key, f"{folder}/{name}")
    pictures, _ = read(context, made.sets["distilled"])
    for name, content in report.render(results, pictures).items():
        place = "dataset" if name == "README.md" else "report"
        context.store.put_bytes(f"{folder}/{place}/{name}", content)
    context.store.put_bytes(f"{folder}/results.json", json.dumps(results, indent=1).encode())
    return {name: asdict(_renamed(file, f"{folder}/{name}")) for name, file in published.items()}


def _renamed(file: File, key: str) -> File:
    return File(key, file.size, file.sha256)
