"""The commands on a real cluster, from a run's first pod to its last: as users type them, on RayJobs as we render them.

What the driver does is no matter here: a few lines of Python stand for it. Takes about three minutes.
"""

import base64
import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from on_cluster import ENDPOINT, PUBLIC_ENDPOINT, require

from teddy_cloud.cluster.access import find
from teddy_cloud.cluster.api import Cluster
from teddy_cloud.cluster.render import Job, render
from teddy_ray.spec import Spec

pytestmark = pytest.mark.timeout(1800)

IMAGE = os.environ.get("TEDDY_E2E_IMAGE", "")
CODE = "import sys; sys.argv[0] = 'teddy-cloud'; from teddy_cloud.app import main; main()"
TALKS = "python -u -c \"import time; [print('said', i) or time.sleep(1) for i in range(900)]\""


@pytest.fixture(scope="module")
def cluster():
    """A namespace of its own, restricted, with what the chart would leave there."""
    require()
    name = f"teddy-e2e-{secrets.token_hex(3)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made = Cluster(find(None, name))
    made.request(
        "POST", "/api/v1/namespaces", body={"metadata": {"name": name, "labels": labels}}, doing="create a namespace"
    )
    settings = {
        "store": {
            "uri": f"{os.environ['TEDDY_E2E_STORE']}/{name}",
            "endpoint": ENDPOINT,
            "publicEndpoint": PUBLIC_ENDPOINT,
        },
        "image": IMAGE,
        "head": {"cpu": "100m", "memory": "1536Mi"},
        "worker": {"cpu": "250m", "memory": "1Gi", "sharedMemory": "512Mi"},
        "job": {"drainSeconds": 5, "keepMinutes": 60, "retries": 0},
    }
    token = base64.b64encode(secrets.token_hex(16).encode()).decode()
    for kind, metadata, more in (
        ("configmaps", "teddy-cloud", {"data": {"settings.json": json.dumps(settings)}}),
        ("secrets", "teddy-cloud-ray-token", {"data": {"auth_token": token}}),
        ("serviceaccounts", "teddy-cloud", {}),
        ("serviceaccounts", "nobody", {}),
    ):
        path = f"/api/v1/namespaces/{name}/{kind}"
        made.request("POST", path, body={"metadata": {"name": metadata}, **more}, doing=f"create {metadata}")
    yield made
    made.request("DELETE", f"/api/v1/namespaces/{name}", doing="delete the namespace")


@pytest.fixture
def tc(cluster, tmp_path):
    """``teddy-cloud`` as a process, in the namespace: exit code, standard output, standard error."""

    def call(*arguments: str, **environment: str) -> tuple[int, str, str]:
        command = [sys.executable, "-c", CODE, *arguments, "--namespace", cluster.namespace]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, **environment},
            timeout=300,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return call


def submitted(cluster: Cluster, run: str, *, entrypoint: str = TALKS, image: str = IMAGE) -> None:
    """A RayJob as submit makes it, but for what the driver does."""
    settings = cluster.settings().model_copy(update={"image": image})
    manifest = render(Job(run, cluster.namespace, Spec(), 0, 1), settings)
    manifest["spec"]["entrypoint"] = entrypoint
    cluster.create(manifest)


def until(found, seconds: float = 300.0):
    """What ``found()`` gives, once it is something."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not come to be in time"
        time.sleep(1)
    return value


def state(tc, run: str) -> dict:
    code, out, err = tc("status", run, "--json")
    assert code == 0, err
    return json.loads(out)


def pods(cluster: Cluster, run: str) -> list:
    return [pod for pod in cluster.pods(run) if pod["metadata"]["labels"]["teddy-cloud/role"] != "submitter"]


def test_a_run_is_watched_stopped_gone_on_with_paused_and_deleted(cluster, tc, tmp_path):
    submitted(cluster, "talks")
    follow = [sys.executable, "-c", CODE, "logs", "talks", "-f", "--namespace", cluster.namespace]
    with (tmp_path / "followed").open("w") as out, _ended(subprocess.Popen(follow, stdout=out)) as following:
        until(lambda: state(tc, "talks")["state"] == "running")
        until(lambda: "said 2" in (tmp_path / "followed").read_text())
        seen = state(tc, "talks")
        assert seen["cluster"]["workers"] == {"ready": 1, "desired": 1}
        assert seen["cluster"]["why"] == []
        assert "talks" in tc("list")[1]
        _dashboard_answers_the_token_alone(cluster)
        assert tc("cancel", "talks")[0] == 0
        assert following.wait(60) == 0
    said = [int(number) for number in re.findall(r"^said (\d+)$", (tmp_path / "followed").read_text(), re.MULTILINE)]
    assert said == list(range(len(said)))
    assert state(tc, "talks")["state"] == "cancelled"
    assert "said 2\n" in tc("logs", "talks")[1]

    before = cluster.get("talks")["metadata"]["uid"]
    assert tc("resume", "talks")[0] == 0
    assert cluster.get("talks")["metadata"]["uid"] != before
    until(lambda: state(tc, "talks")["state"] == "running")
    assert tc("pause", "talks")[0] == 0
    until(lambda: state(tc, "talks")["state"] == "paused" and not pods(cluster, "talks"))
    assert tc("resume", "talks")[0] == 0
    until(lambda: pods(cluster, "talks"))
    assert tc("delete", "talks", "--yes")[0] == 0
    assert cluster.get("talks") is None
    until(lambda: not cluster.pods("talks"))


@contextmanager
def _ended(process: subprocess.Popen):
    """A process that does not outlive the test that failed."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _dashboard_answers_the_token_alone(cluster: Cluster) -> None:
    command = [sys.executable, "-c", CODE, "dashboard", "talks", "--port", "0", "--namespace", cluster.namespace]
    with _ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as forwarding:
        url = forwarding.stdout.readline().strip()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/api/jobs/")
        assert refused.value.code == 401
        asked = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {cluster.token()}"})
        with urllib.request.urlopen(asked) as answer:
            assert len(json.load(answer)) == 1


def test_an_image_that_is_not_there_is_diagnosed_within_a_minute(cluster, tc):
    submitted(cluster, "no-image", image=f"{IMAGE}-that-is-not-there")
    (why,) = until(lambda: state(tc, "no-image")["cluster"]["why"], 60)
    assert f"the image {IMAGE}-that-is-not-there cannot be pulled: the registry has no such image" in why
    assert tc("cancel", "no-image")[0] == 0
    assert cluster.get("no-image") is None


def test_a_user_without_rights_is_told_which(cluster, tc, tmp_path):
    path = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/nobody/token"
    asked = {"spec": {"expirationSeconds": 600}}
    token = cluster.request("POST", path, body=asked, doing="make a token")["status"]["token"]
    kubeconfig = _kubeconfig_of(token)
    (tmp_path / "nobody").write_text(json.dumps(kubeconfig))
    code, _, err = tc("list", KUBECONFIG=str(tmp_path / "nobody"))
    assert (code, err.count("\n")) == (2, 2)
    assert re.search(rf"you \(.*:nobody\) may not list rayjobs in namespace {cluster.namespace}", err)
    code, out, _ = tc("doctor", KUBECONFIG=str(tmp_path / "nobody"))
    assert code == 1
    assert "fail rights" in out
    (tmp_path / "wrong").write_text(json.dumps(_kubeconfig_of("no-token")))
    code, out, _ = tc("doctor", KUBECONFIG=str(tmp_path / "wrong"))
    assert (code, "does not accept your credentials" in out) == (1, True)


def _kubeconfig_of(token: str) -> dict:
    configuration = find(None, None).configuration
    with open(configuration.ssl_ca_cert, "rb") as file:  # noqa: PTH123
        authority = base64.b64encode(file.read()).decode()
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": configuration.host, "certificate-authority-data": authority}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }  # fmt: skip
