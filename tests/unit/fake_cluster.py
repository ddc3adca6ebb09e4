"""A namespace of a Kubernetes cluster in memory, behind the real Cluster's methods: plain dicts by their paths.

cluster = FakeCluster(settings)
cluster.put_rayjob("a", "Running", "RUNNING")
"""

import base64
import json

from teddy_cloud.cluster.access import Access
from teddy_cloud.cluster.api import Cluster, ExistsError, NotFoundError, NotInstalledError

RAYJOBS = "/apis/ray.io/v1/namespaces/ml/rayjobs"
CORE = "/api/v1/namespaces/ml"


class FakeCluster(Cluster):
    """``objects`` by path; ``allowed`` answers can_i; ``logs`` are pods' lines; ``asked`` is every method and path."""

    def __init__(self, settings: dict | None = None):
        super().__init__(Access(None, "ml", "test"))
        self.objects: dict[str, dict] = {
            "/version": {"gitVersion": "v1.34.4"},
            "/apis/ray.io/v1": {"resources": [{"name": "rayjobs"}, {"name": "raycronjobs"}]},
        }
        self.allowed = lambda _verb, _resource: True
        self.logs: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.uids = 0
        if settings is not None:
            self.objects[f"{CORE}/configmaps/teddy-cloud"] = {"data": {"settings.json": json.dumps(settings)}}
            token = {"auth_token": base64.b64encode(b"tok").decode()}
            self.objects[f"{CORE}/secrets/teddy-cloud-ray-token"] = {"data": token}

    def put_rayjob(self, run, deployment="", job="", *, spec=None, labels=None, **status) -> dict:
        self.uids += 1
        self.objects[f"{RAYJOBS}/{run}"] = made = {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {
                "name": run, "namespace": "ml", "uid": str(self.uids), "creationTimestamp": "2026-11-21T05:00:00Z",
                "labels": {"app.kubernetes.io/managed-by": "teddy-cloud", "teddy-cloud/run": run, **(labels or {})},
                "annotations": {"teddy-cloud/store": "s", "other/annotation": "theirs"},
            },
            "spec": {"entrypoint": "e", "shutdownAfterJobFinishes": True, **(spec or {})},
            "status": {"jobDeploymentStatus": deployment, "jobStatus": job, **status},
        }  # fmt: skip
        return made

    def put_pod(self, name, run, role, *, created="2026-11-21T05:00:00Z", **status) -> None:
        self.objects[f"{CORE}/pods/{name}"] = {
            "metadata": {
                "name": name, "creationTimestamp": created,
                "labels": {"teddy-cloud/run": run, "teddy-cloud/role": role},
            },
            "spec": {"containers": [{"name": "main", "image": "i"}]},
            "status": {"phase": "Running", **status},
        }  # fmt: skip

    def request(self, method, path, *, doing, query=None, body=None, content="application/json"):  # noqa: ARG002
        self.asked.append((method, path))
        if path.endswith("selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            return {"status": {"allowed": self.allowed(asked["verb"], asked["resource"])}}
        if method == "POST":
            return self._create(path, body)
        if method == "GET" and path not in self.objects:
            return self._list(path, doing, query or {})
        if path not in self.objects:
            raise NotFoundError(f"cannot {doing}: not found")
        if method == "DELETE":
            return self.objects.pop(path)
        if method == "PATCH":
            self.objects[path]["spec"] |= body["spec"]
        return json.loads(json.dumps(self.objects[path]))

    def _create(self, path, body):
        key = f"{path}/{body['metadata']['name']}"
        if key in self.objects:
            raise ExistsError(f"{key} is there")
        self.uids += 1
        metadata = {"creationTimestamp": "2026-11-21T05:00:00Z", **body["metadata"], "uid": str(self.uids)}
        self.objects[key] = {**body, "metadata": metadata}
        return self.objects[key]

    def _list(self, path, doing, query):
        kind = path.rpartition("/")[2]
        if kind not in ("rayjobs", "pods", "events", "nodes", "deployments"):
            raise (NotInstalledError if path.count("/") < 4 else NotFoundError)(f"cannot {doing}: not found")
        found = [each for key, each in self.objects.items() if key.startswith(f"{path}/")]
        name, _, value = query.get("labelSelector", "").partition("=")
        items = [each for each in found if not name or (each["metadata"].get("labels") or {}).get(name) == value]
        return {"items": json.loads(json.dumps(items))}

    def pod_log(self, pod, container="", *, follow=False, since=None, tail=None):  # noqa: ARG002
        second = (since or "")[:19]
        return iter([line for line in self.logs.get(pod, []) if line[:19] >= second])
