"""The user's own line, against sixteen GPUs that do not exist: scheduled as any, the work done by CPUs."""

import json

import pytest
from on_cluster import SMALL, run, until

pytestmark = pytest.mark.timeout(2400)
SPEC = {key: value for key, value in SMALL.items() if key not in ("data.classes", "data.per_class")}
SPEC |= {"distill.unit_images": 50, "distill.iterations": 5, "relabel.views": 2}
VALUES = {
    "spec": SPEC,
    # Eight slots a pod, on a node of the test cluster: all share one small machine.
    "worker": {"cpu": "10m", "memory": "1Gi", "sharedMemory": "128Mi", "gpusPerNode": 8},
}
GPUS = 16


@pytest.fixture
def gpus(kit):
    run(kit / "fake-gpus", "8")
    yield GPUS
    run(kit / "fake-gpus", "0")


def test_teddy_cloud_submit_ipc_100_gpus_16(ml, gpus):
    done = ml.teddy_cloud("submit", "--ipc", "100", "--gpus", "16")
    (rayjob,) = json.loads(ml.kubectl("get", "rayjobs", "-o", "json").stdout)["items"]
    name = rayjob["metadata"]["name"]
    assert name in done.stdout
    until(lambda: ml.status(name)["cluster"]["workers"])
    asked = [
        pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
        for pod in until(lambda: ml.pods(name, "worker"))
    ]
    assert sum(map(int, asked)) == gpus
    ml.wait(name, "finished", seconds=2000)
    pulled = ml.pull(name)
    assert len(pulled["units"]) == 20
    assert pulled["environment"]["workers"] == gpus
