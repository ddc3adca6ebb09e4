"""Kueue: two runs on a quota for one. The second waits, and says so, then runs."""

import json

import pytest
from on_cluster import SMALL, run, until

pytestmark = pytest.mark.timeout(1800)
VALUES = {"job": {"drainSeconds": 5, "queue": "teddy"}}


@pytest.fixture(scope="module")
def quota(ml):
    """A queue of the namespace with room for one run of one worker."""
    if run("kubectl", "get", "crd", "clusterqueues.kueue.x-k8s.io", check=False).returncode:
        pytest.skip("Kueue is not installed on this cluster")
    name = ml.name
    resources = [{"name": "cpu", "nominalQuota": "1"}, {"name": "memory", "nominalQuota": "6Gi"}]
    flavor = {"name": name, "resources": resources}
    objects = [
        {"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "ResourceFlavor", "metadata": {"name": name}},
        {
            "apiVersion": "kueue.x-k8s.io/v1beta1",
            "kind": "ClusterQueue",
            "metadata": {"name": name},
            "spec": {
                "namespaceSelector": {},
                "resourceGroups": [{"coveredResources": ["cpu", "memory"], "flavors": [flavor]}],
            },
        },
        {
            "apiVersion": "kueue.x-k8s.io/v1beta1",
            "kind": "LocalQueue",
            "metadata": {"name": "teddy", "namespace": name},
            "spec": {"clusterQueue": name},
        },
    ]
    run("kubectl", "apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    yield
    run("kubectl", "delete", "clusterqueue", name, "--wait=false", check=False)
    run("kubectl", "delete", "resourceflavor", name, "--wait=false", check=False)


@pytest.mark.usefixtures("quota")
def test_the_second_run_waits_visibly_then_runs(ml):
    first = ml.submit({**SMALL, "distill.iterations": 1500}, workers=1)
    until(lambda: ml.status(first)["state"] in ("provisioning", "starting", "running"))
    second = ml.submit({**SMALL, "seed": 1}, workers=1)
    waiting = until(lambda: (seen := ml.status(second))["state"] == "queued" and seen["cluster"]["why"])
    assert "queue" in " ".join(waiting)
    assert "queued" in ml.teddy_cloud("list").stdout
    ml.wait(first, "finished")
    ml.wait(second, "finished")
