"""What a cluster does to a run, and what the run makes of it: the same bytes, or a sentence.

A fault needs a run that lasts: LONG is SMALL with more to distil and to label.
"""

import json
import os
import secrets
import xml.sax.saxutils

import botocore.session
import pytest
import requests
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from on_cluster import PUBLIC_ENDPOINT, SMALL, run, settings_of, until

pytestmark = pytest.mark.timeout(2400)
# The head keeps to the node that cannot be lost, and that a drain would wait for.
VALUES = {"head": {"cpu": "100m", "memory": "3Gi", "nodeSelector": {"teddy/role": "head"}}}
LONG = {**SMALL, "distill.ipc": 6, "distill.iterations": 1000, "relabel.views": 800}


@pytest.fixture
def nodes(kit):
    """Start, stop, drain and uncordon nodes; whatever a test did to them is undone."""

    class Nodes:
        def lose(self, name):
            run(kit / "node", "stop", name)

        def drain(self, name):
            run("kubectl", "drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=180s")

        def back(self):
            for name in ("teddy-2", "teddy-3"):
                run(kit / "node", "start", name)
                run("kubectl", "uncordon", name)

    made = Nodes()
    yield made
    made.back()


def node_of(ml, name, role):
    """A further node, which can be lost, that a pod of the run is on."""
    found = [pod["spec"].get("nodeName") for pod in ml.pods(name, role) if not pod["metadata"].get("deletionTimestamp")]
    return next((node for node in found if node and node != "teddy"), None)


def at_work(ml, name, stage, share=0.02):
    """Wait until the stage is on its way."""
    until(lambda: 1 > ml.stage(name, stage) >= share, every=0.5)


def test_a_lost_node_a_drained_node_and_a_deleted_head_change_no_byte(ml, nodes, local_results):
    spec = {**LONG, "distill.iterations": 1500, "relabel.views": 2500}  # time to lose a node, then the head
    name = ml.submit(spec)
    at_work(ml, name, "distill")
    lost = until(lambda: node_of(ml, name, "worker"))
    nodes.lose(lost)
    # The worker that is left goes on, long before the lost one's pod is replaced.
    until(lambda: ml.status(name)["cluster"]["workers"]["ready"] == 1)
    far = ml.stage(name, "distill")
    until(lambda: ml.stage(name, "distill") > far + 0.05)
    # A spare node first, so that the drained one's pods have somewhere to go.
    nodes.back()
    nodes.drain(until(lambda: node_of(ml, name, "worker")))
    until(lambda: ml.stage(name, "relabel") > 0)
    (head,) = [pod for pod in ml.pods(name, "head") if not pod["metadata"].get("deletionTimestamp")]
    # With its usual half minute of grace it might even finish.
    ml.kubectl("delete", "pod", head["metadata"]["name"], "--wait=false", "--grace-period=1")
    seen = ml.wait(name, "finished")
    assert len(seen["attempts"]) >= 2
    assert ml.pull(name)["digests"] == local_results(spec)["digests"]


SHOWN = ("stage_done_tasks", "stage_total_tasks", "stage_share", "images_per_second", "store_bytes_total")
"""What the chart's dashboard shows of a run in which no request had to be repeated."""


def metrics(ml, name):
    """What Prometheus would find at the head."""
    (head,) = ml.pods(name, "head")
    code = "import urllib.request as r; print(r.urlopen('http://localhost:8080').read().decode())"
    return ml.kubectl("exec", head["metadata"]["name"], "--", "python", "-c", code).stdout


def test_a_run_cancelled_in_distill_is_gone_on_with_and_a_paused_one_too(ml, local_results):
    spec = {**LONG, "seed": 2}
    name = ml.submit(spec)
    at_work(ml, name, "distill")
    until(lambda: all(f"ray_teddy_{shown}{{" in metrics(ml, name) for shown in SHOWN))
    ml.teddy_cloud("cancel", name)
    assert ml.status(name)["state"] == "cancelled"
    assert ml.kubectl("get", "rayjob", name, "-o", "jsonpath={.status.jobStatus}").stdout == "STOPPED"
    ml.teddy_cloud("resume", name)
    at_work(ml, name, "distill")
    ml.teddy_cloud("pause", name)
    until(lambda: ml.status(name)["state"] == "paused" and not ml.pods(name, "worker"))
    ml.teddy_cloud("resume", name)
    seen = ml.wait(name, "finished")
    assert seen["stages"][1]["reused"] == 1
    assert ml.pull(name)["digests"] == local_results(spec)["digests"]


def test_a_worker_ended_with_its_grace_period_as_a_spot_machine_is(ml, local_results):
    spec = {**LONG, "seed": 3}
    name = ml.submit(spec)
    at_work(ml, name, "distill")
    ml.kubectl("delete", "pod", ml.pods(name, "worker")[0]["metadata"]["name"], "--wait=false")
    seen = ml.wait(name, "finished")
    assert seen["cluster"]["attempt"] == 1
    assert ml.pull(name)["digests"] == local_results(spec)["digests"]


def test_gpus_that_the_cluster_does_not_have_are_named(ml):
    said = json.loads(
        ml.teddy_cloud("submit", *settings_of(SMALL), "--gpus", "4", "--gpu-type", "H900", "--json").stdout
    )
    why = until(lambda: " ".join(ml.status(said["run"])["cluster"]["why"]), 90)
    assert "nvidia.com/gpu" in why
    ml.teddy_cloud("cancel", said["run"])


def test_an_image_that_does_not_exist_is_named_within_a_minute(ml):
    name = ml.submit({**SMALL, "seed": 4}, "--image", f"{os.environ['TEDDY_E2E_IMAGE']}-not-there")
    why = until(lambda: " ".join(ml.status(name)["cluster"]["why"]), 60)
    assert "-not-there cannot be pulled" in why
    ml.teddy_cloud("cancel", name)


class Account:
    """An S3 account of the test cluster's server, which has an interface of its own for them."""

    def __init__(self):
        self.access, self.secret = f"e2e{secrets.token_hex(6)}", secrets.token_hex(16)

    def make(self):
        fields = {"Access": self.access, "Secret": self.secret, "Role": "admin", "UserID": "0", "GroupID": "0"}
        body = "".join(f"<{key}>{xml.sax.saxutils.escape(value)}</{key}>" for key, value in fields.items())
        self._ask("create-user", body=f"<Account>{body}</Account>")

    def revoke(self):
        self._ask(f"delete-user?access={self.access}")

    @staticmethod
    def _ask(what, body=""):
        asked = AWSRequest("PATCH", f"{PUBLIC_ENDPOINT}/{what}", data=body.encode())
        credentials = botocore.session.get_session().get_credentials()
        S3SigV4Auth(credentials, "s3", os.environ["AWS_DEFAULT_REGION"]).add_auth(asked)
        done = requests.patch(asked.url, data=asked.body, headers=dict(asked.headers), timeout=20)
        assert done.ok, done.text


@pytest.mark.usefixtures("kit")
def test_a_key_revoked_in_the_middle_is_said_and_a_new_one_goes_on(ml, local_results):
    account = Account()
    account.make()
    keys = {"AWS_ACCESS_KEY_ID": account.access, "AWS_SECRET_ACCESS_KEY": account.secret}
    values = [f"--from-literal={key}={value}" for key, value in keys.items()]
    ml.kubectl("create", "secret", "generic", "revoked", *values)
    spec = {**LONG, "seed": 5}
    sent = ml.teddy_cloud(
        "submit", *settings_of(spec), "--gpus", "0", "--workers", "2", "--retries", "0", "--dry-run"
    ).stdout
    name = ml.kubectl(
        "apply", "-f", "-", "-o", "jsonpath={.metadata.name}", given=sent.replace("teddy-cloud-s3", "revoked")
    ).stdout
    at_work(ml, name, "distill")
    account.revoke()
    until(lambda: ml.status(name)["state"] == "failed")
    seen = ml.status(name)
    assert "does not take the AWS credentials" in json.dumps(seen)
    assert account.secret not in json.dumps(seen)
    # With a size the RayJob is made anew, of what the namespace says now: its Secret.
    ml.teddy_cloud("resume", name, "--workers", "2")
    ml.wait(name, "finished")
    assert ml.pull(name)["digests"] == local_results(spec)["digests"]
