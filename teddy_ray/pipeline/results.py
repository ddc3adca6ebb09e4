"""What a run has made, and what it shows: results.json, gathered from the records alone.

Every score stands with its control, its spread over seeds, the student's steps and what its images and labels cost.
"""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from typing import Any

from teddy_ray import __version__
from teddy_ray.pipeline import addresses
from teddy_ray.pipeline.context import Context
from teddy_ray.pipeline.imagesets import content_of
from teddy_ray.store.records import Record

Results = dict[str, Any]


@dataclass
class Made:
    """The records of a run, stage by stage, and what this attempt had to do for them."""

    data: Record = field(init=False)
    base: Record = field(init=False)
    pool: list[Record] = field(default_factory=list)
    units: list[Record] = field(default_factory=list)
    sets: dict[str, Record] = field(default_factory=dict)
    labels: dict[str, list[Record]] = field(default_factory=dict)
    students: list[Record] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    reused_stages: list[str] = field(default_factory=list)
    reused_units: list[str] = field(default_factory=list)

    def all(self) -> list[Record]:
        """Every record, in the order of the stages."""
        labels = [shard for shards in self.labels.values() for shard in shards]
        return [self.data, self.base, *self.pool, *self.units, *self.sets.values(), *labels, *self.students]

    def keys(self) -> list[str]:
        """Where the records are in the store."""
        return [addresses.record_key(record.stage, record.digest) for record in self.all()]


def collect(context: Context, run: str, made: Made) -> Results:
    """The results of a finished run (the report stage's own seconds come last)."""
    real, spec = context.real, context.spec
    scores = _scores(context, made)
    return {
        "run": run,
        "folder": f"{context.store.uri}/runs/{run}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "spec": spec.model_dump(mode="json"),
        "spec_digest": spec.digest,
        "digests": {
            "images": content_of(made.sets["distilled"]),
            **({"labels": content_of(*shards)} if (shards := made.labels["distilled"]) else {}),
        },
        "dataset": {
            "source": spec.data.source,
            "class_names": list(real.class_names),
            "train_images": len(real.train_labels),
            "test_images": len(real.test_labels),
            "image_size": real.size[0],
            "skipped": real.skipped,
        },
        "environment": _environment(context),
        "seconds": made.seconds,
        "reused": {"stages": made.reused_stages, "units": made.reused_units},
        "base": {name: made.base.meta[name] for name in ("arch", "parameters", "accuracy", "curve")},
        "label_views": context.label_views,
        "members": [_part(record, "name", "kind", "accuracy", "parameters", "seconds") for record in made.pool],
        "units": [_part(record, "name", "images", "seconds", "trace") for record in made.units],
        "scores": scores,
        "rank": _rank(scores, made.base.meta),
        "students": [
            _part(record, "set", "student", "regime", "seed", "accuracy", "seconds", "curve")
            for record in made.students
        ],
    }


def _scores(context: Context, made: Made) -> list[Results]:
    """A row for every (student, regime, set), then full data: the base's own accuracy serves."""
    spec, base = context.spec.evaluate, made.base.meta
    costs = _construction_seconds(made)
    rows = []
    for student, regime in product(spec.students, spec.regimes):
        found = {name: _runs(made.students, name, student, regime) for name in ("distilled", *spec.controls)}
        control = found.get("random")
        for name, runs in found.items():
            rows.append(
                {
                    **_row(name, student, regime, [run["accuracy"] for run in runs]),
                    "steps": runs[0]["steps"],
                    "construction_seconds": round(costs[name], 3),
                    "random": _mean(control) if control else None,
                    "random_spread": _spread([run["accuracy"] for run in control]) if control else None,
                }
            )
    full = {"steps": base["steps"], "construction_seconds": 0.0, "random": None, "random_spread": None}
    return [*rows, {**_row("full", base["arch"], "hard", [base["accuracy"]]), **full}]


def _row(name: str, student: str, regime: str, accuracies: Sequence[float]) -> Results:
    return {
        "set": name,
        "student": student,
        "regime": regime,
        "accuracy": statistics.fmean(accuracies),
        "spread": _spread(accuracies),
        "runs": list(accuracies),
    }


def _runs(students: Iterable[Record], name: str, student: str, regime: str) -> list[dict[str, Any]]:
    wanted = (name, student, regime)
    return [r.meta for r in students if (r.meta["set"], r.meta["student"], r.meta["regime"]) == wanted]


def _construction_seconds(made: Made) -> dict[str, float]:
    """Worker seconds from real images to labelled ones. Every set needs the models that label it; the distilled one its
    units as well. Of the draws of random images, the mean."""
    models = made.base.meta["seconds"] + sum(record.meta["seconds"] for record in made.pool if record.stage == "member")
    labels = {name: sum(shard.meta["seconds"] for shard in shards) for name, shards in made.labels.items()}
    random = [seconds for name, seconds in labels.items() if name.startswith("random-")]
    return {
        "distilled": models + sum(record.meta["seconds"] for record in made.units) + labels["distilled"],
        "random": models + statistics.fmean(random or [0.0]),
        "coreset": models + labels.get("coreset", 0.0) + made.sets["coreset"].meta["seconds"]
        if "coreset" in labels
        else 0.0,
    }


def _rank(scores: Sequence[Results], base: Results) -> list[Results]:
    """DD-Ranking (arXiv 2505.13300) in points: HLR = full - distilled with hard labels, IOR = distilled - random.

    HLR only for students of the base's architecture: full data's score is the base's own.
    """
    distilled = [row for row in scores if row["set"] == "distilled"]
    ranks = []
    for student in dict.fromkeys(row["student"] for row in distilled):
        own = {row["regime"]: row for row in distilled if row["student"] == student}
        ior = {regime: row["accuracy"] - row["random"] for regime, row in own.items() if row["random"] is not None}
        comparable = "hard" in own and student == base["arch"]
        hlr = base["accuracy"] - own["hard"]["accuracy"] if comparable else None
        ranks.append({"student": student, "hlr": hlr, "ior": ior})
    return ranks


def _environment(context: Context) -> Results:
    compute = context.spec.compute
    versions = {name: _version(name) for name in ("torch", "torchvision", "ray")}
    return {
        "device": f"{compute.device} ({context.device_name})",
        "precision": compute.precision,
        "compile": compute.compile,
        "convolutions": compute.convolutions,
        "executor": compute.executor,
        "workers": compute.workers,
        "python": platform.python_version(),
        **versions,
        "teddy_cloud": __version__,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _part(record: Record, *names: str) -> Results:
    return {name: record.meta[name] for name in names}


def _mean(runs: Sequence[dict[str, Any]]) -> float:
    return statistics.fmean(run["accuracy"] for run in runs)


def _spread(accuracies: Sequence[float]) -> float | None:
    """The sample standard deviation over seeds; one seed has none."""
    return statistics.stdev(accuracies) if len(accuracies) > 1 else None
