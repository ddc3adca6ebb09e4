"""A real API server takes what the renderer makes, and a namespace that enforces ``restricted`` admits its pods.

Needs a cluster with KubeRay: KUBECONFIG. Everything happens in dry runs, in a namespace of its own.
"""

import importlib.util
import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def kubectl(*arguments, given=None):
    """(exit code, output and errors) of kubectl."""
    done = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def namespace():
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    name = f"teddy-render-{uuid.uuid4().hex[:6]}"
    made = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "teddy-cloud", "namespace": name}}
    robot = {**account, "metadata": {"name": "robot", "namespace": name}}
    try:
        code, text = kubectl(
            "create", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": [made, account, robot]})
        )
        assert code == 0, text
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def manifests(namespace):
    """Every example and golden file, by its path, for the namespace."""
    found = importlib.util.spec_from_file_location("generate", ROOT / "k8s" / "generate.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    made = {path.as_posix(): yaml.safe_load(text) for path, text in module.files().items()}
    for manifest in made.values():
        manifest["metadata"]["namespace"] = namespace
    return made


def test_the_api_server_takes_every_rayjob_and_knows_every_field(manifests):
    for path, manifest in manifests.items():
        code, text = kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", given=json.dumps(manifest))
        assert code == 0, f"{path}: {text}"


def test_the_api_server_would_refuse_a_misspelt_field(manifests):
    manifest = json.loads(json.dumps(manifests["k8s/gpu.yaml"]))
    manifest["spec"]["ttlSecondsAfterFinishd"] = 1
    code, text = kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", given=json.dumps(manifest))
    assert code != 0
    assert "ttlSecondsAfterFinishd" in text


def pods(manifest):
    """The pods that KubeRay would make of a RayJob's templates, before it adds its own."""
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for number, template in enumerate([spec["submitterPodTemplate"], *(group["template"] for group in groups)]):
        metadata = {**template["metadata"], "name": f"pod-{number}", "namespace": manifest["metadata"]["namespace"]}
        # Classes of priority are the cluster's own, and this one has none.
        body = {key: value for key, value in template["spec"].items() if key != "priorityClassName"}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def test_a_restricted_namespace_admits_every_pod(manifests):
    for path, manifest in manifests.items():
        for pod in pods(manifest):
            code, text = kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", given=json.dumps(pod))
            assert code == 0, f"{path}: {text}"


def test_a_restricted_namespace_would_refuse_a_pod_without_its_security_context(manifests):
    pod = next(pods(manifests["k8s/cpu.yaml"]))
    del pod["spec"]["containers"][0]["securityContext"]
    code, text = kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod))
    assert code != 0
    assert "violates PodSecurity" in text
