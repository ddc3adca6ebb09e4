"""Whether the namespace's image comes: a pod that ends at once, as ``doctor --image-pull`` starts it and takes it away.

print(pull_check(place).said)
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from teddy_cloud.cluster.checks import Check
from teddy_cloud.cluster.diagnosis import Situation, diagnose
from teddy_ray.errors import UserError, WorldError

if TYPE_CHECKING:
    from teddy_cloud.cluster.settings import Settings
    from teddy_cloud.stores import Place

PULL_SECONDS = 300.0
POLL_SECONDS = 2.0


def pull_check(place: Place) -> Check:
    """Start the pod, wait until its image has come or cannot, remove it."""
    cluster = place.cluster
    assert cluster is not None
    name = f"teddy-cloud-image-{secrets.token_hex(4)}"
    path = f"/api/v1/namespaces/{cluster.namespace}/pods"
    try:
        cluster.request("POST", path, body=check_pod(name, place.settings), doing="create a pod")
    except (UserError, WorldError) as error:
        return Check("image", "warn", f"cannot try it: {error}")
    try:
        return _awaited(place, f"{path}/{name}")
    except (UserError, WorldError) as error:
        return Check("image", "fail", str(error))
    finally:
        cluster.request("DELETE", f"{path}/{name}", query={"gracePeriodSeconds": 0}, doing=f"delete pod {name}")


def _awaited(place: Place, path: str) -> Check:
    assert place.cluster is not None
    image, began = place.settings.image, time.monotonic()
    while time.monotonic() - began < PULL_SECONDS:
        pod = place.cluster.request("GET", path, doing="read the pod")
        phase = (pod.get("status") or {}).get("phase")
        if phase in ("Succeeded", "Running"):
            return Check("image", "ok", f"{image} comes, in {time.monotonic() - began:.0f} s")
        if phase == "Failed":
            return Check("image", "fail", f"{image} comes, but has no working python")
        if trouble := diagnose(Situation(rayjob={"status": {"jobDeploymentStatus": "Initializing"}}, pods=[pod])):
            return Check("image", "fail", trouble[0])
        time.sleep(POLL_SECONDS)
    return Check("image", "fail", f"{image} has not come in {PULL_SECONDS / 60:.0f} minutes: is it very large?")


def check_pod(name: str, settings: Settings) -> dict[str, Any]:
    """A pod that passes the restricted standard, has the image, and does nothing."""
    container = {
        "name": "image",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-c", ""],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/name": "teddy-cloud",
                "app.kubernetes.io/managed-by": "teddy-cloud",
                "teddy-cloud/role": "image-check",
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": settings.service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "imagePullSecrets": [{"name": secret} for secret in settings.image_pull_secrets],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "fsGroup": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }
