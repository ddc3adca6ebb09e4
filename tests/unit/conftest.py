"""Made-up runs in a folder: what a store looks like to those who read it, without any run's work."""

import hashlib
import json
import os

import pytest

from teddy_ray.pipeline.manifest import Manifest
from teddy_ray.spec import Spec
from teddy_ray.store import FolderStore, records


def score(set_, accuracy, *, regime="views", spread=0.5):
    return {
        "set": set_, "student": "convnet", "regime": regime, "accuracy": accuracy, "spread": spread,
        "runs": [accuracy] * 2, "steps": 300, "construction_seconds": 1.0, "random": None, "random_spread": None,
    }  # fmt: skip


SCORES = [
    score("distilled", 84.0), score("random", 70.0), score("coreset", 80.0),
    score("distilled", 60.0, regime="hard"), score("full", 98.0, regime="hard", spread=None),
]  # fmt: skip


class MadeUp:
    """A store, and what runs leave in it."""

    def __init__(self, root):
        self.store = FolderStore(root)

    def spec(self, run, **changes):
        """A run that has begun."""
        values = json.loads(Spec().to_json())
        for name, value in changes.items():
            part, _, field = name.rpartition("__")
            (values[part] if part else values)[field] = value
        self.store.put_bytes(f"runs/{run}/spec.json", json.dumps(values).encode())

    def events(self, run, *events, attempt=1, number=0):
        """Something that a run has said; the first of an attempt begins it."""
        began = {"time": 1000.0, "kind": "note", "stage": "data", "message": f"attempt {attempt}"}
        self.store.put_if_absent(f"runs/{run}/events/{attempt:04d}/began.jsonl", json.dumps(began).encode() + b"\n")
        if events:
            lines = "".join(json.dumps({"time": 1000.0, "stage": "distill", **event}) + "\n" for event in events)
            self.store.put_bytes(f"runs/{run}/events/{attempt:04d}/{number:06d}.jsonl", lines.encode())

    def artifact(self, stage, digest, **files):
        """A record's key."""
        records.commit(self.store, stage, digest, files, {"name": digest[:8]})
        return f"artifacts/{stage}/{digest}/record.json"

    def finished(self, run, *, scores=SCORES, files=None, artifacts=(), **changes):
        """A run with a manifest of ``files`` (name to bytes), which rests on ``artifacts``."""
        self.spec(run, **changes)
        published = {"results.json": json.dumps({"run": run, "scores": scores}).encode(), **(files or {})}
        listed = {}
        for name, data in published.items():
            self.store.put_bytes(f"runs/{run}/{name}", data)
            listed[name] = records.File(f"runs/{run}/{name}", len(data), hashlib.sha256(data).hexdigest())
        data = Manifest(run, "0" * 64, listed, list(artifacts)).to_json()
        self.store.put_bytes(f"runs/{run}/manifest.json", data)


@pytest.fixture
def made_up(tmp_path):
    return MadeUp(tmp_path / "store")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """Whatever cluster and config file the developer has, no unit test may see them."""
    monkeypatch.setenv("KUBECONFIG", os.devnull + ".none")
    monkeypatch.setenv("TEDDY_CLOUD_CONFIG", os.devnull)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
