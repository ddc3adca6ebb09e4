"""Write the manifests in this folder, and the golden files of the tests, anew from the renderer.

make k8s

A unit test fails when they differ from what the renderer makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from teddy_cloud.cluster.render import Job, manifest_yaml, render
from teddy_cloud.cluster.settings import Settings
from teddy_ray.pipeline.names import run_name
from teddy_ray.spec import resolve

EXAMPLES = Path("k8s")
GOLDEN = Path("tests/unit/golden")

SETTINGS: dict[str, Any] = {
    "store": {"uri": "s3://bucket/teddy", "region": "eu-central-1", "secretName": "teddy-cloud-s3"},
    "image": "registry.example.com/teddy-cloud@sha256:" + "0" * 64,
}
EVERYTHING: dict[str, Any] = {
    "store": {
        "uri": "s3://bucket/",
        "endpoint": "http://s3.storage.svc:7070",
        "publicEndpoint": "https://s3.example.com",
        "secretName": "keys",
    },
    "image": "registry.example.com/teddy-cloud:1",
    "imagePullPolicy": "Always",
    "imagePullSecrets": ["registry"],
    "serviceAccount": "robot",
    "head": {
        "cpu": "500m",
        "memory": "2Gi",
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "pool", "value": "system", "effect": "NoSchedule"}],
    },
    "worker": {
        "cpu": "1.5",
        "memory": "8Gi",
        "gpusPerNode": 8,
        "gpuType": "NVIDIA-H100-80GB-HBM3",
        "sharedMemory": "16Gi",
        "nodeSelector": {"pool": "gpus"},
        "tolerations": [{"key": "gpus", "operator": "Exists"}],
    },
    "job": {"maxHours": 2.5, "queueTimeoutMinutes": 30, "retries": 0, "keepMinutes": 10, "drainSeconds": 120,
            "priority": "high"},
}  # fmt: skip


def manifest(changes: dict[str, Any], overrides: dict[str, Any], **asked: Any) -> str:
    """One run, rendered."""
    spec = resolve("teddy", {}, {"distill.ipc": 100, **overrides})
    settings = Settings.validate_values({**SETTINGS, **changes}, where="k8s/generate.py")
    return manifest_yaml(render(Job(run=run_name(spec), namespace="ml", spec=spec, **asked), settings))


def files() -> dict[Path, str]:
    """Every generated file's text."""
    imagenet = {"data.source": "s3://bucket/data/imagenet/"}
    odd = {"data.source": "s3://bucket/$(HOME) and 'more'/", "data.classes": ['a "b"', "c\nd"]}
    queue = {"job": {"queue": "gpus", "priority": "research"}}
    return {
        EXAMPLES / "gpu.yaml": manifest({}, imagenet, gpus=16, workers=0),
        EXAMPLES / "cpu.yaml": manifest({}, {"distill.ipc": 10}, gpus=0, workers=4),
        EXAMPLES / "kueue.yaml": manifest(queue, imagenet, gpus=16, workers=0),
        EXAMPLES / "spot.yaml": manifest({}, imagenet, gpus=16, workers=0, spot=True),
        GOLDEN / "everything.yaml": manifest(EVERYTHING, odd, gpus=20, workers=0, spot=True),
        GOLDEN / "cpu-rest.yaml": manifest({"worker": {"slotsPerPod": 4}}, {}, gpus=0, workers=6),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
