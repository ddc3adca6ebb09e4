"""The chart on a real cluster: admitted, useful with its network policies in force, and gone without a trace.

README.md here says what must be set. The test makes the namespace teddy-chart, which must not be there, and removes it.
"""

import base64
import json
import os
import re
import secrets
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from on_cluster import require

CHART = Path(__file__).parents[2] / "helm" / "teddy-cloud"
NAMESPACE, OUTSIDE, RELEASE = "teddy-chart", "teddy-chart-outside", "teddy-chart-e2e"
USER = "ada@example.com"
ENDPOINT = os.environ.get("TEDDY_E2E_ENDPOINT", "")
IMAGE = os.environ.get("TEDDY_E2E_IMAGE", "")
STORE = os.environ.get("TEDDY_E2E_STORE", "")
URI = f"{STORE}/chart-{secrets.token_hex(4)}"
pytestmark = pytest.mark.timeout(1800)

POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
# A task on the worker and the driver on the head both write to the store. A counter, as our own metrics are, lives on
# in an actor when the job is done, since a process takes its metrics along.
CODE = f"""
import ray
from ray.util.metrics import Counter
from teddy_ray.store.probe import main

@ray.remote(num_cpus=0.1)
class Counting:
    def count(self):
        self.counter = Counter("teddy_store_retries_total")
        self.counter.inc(3)

ray.init(namespace="test")
assert ray.get(ray.remote(num_cpus=0.5)(main).remote([{URI!r}])) == 0
assert main([{URI!r}]) == 0
ray.get(Counting.options(lifetime="detached", name="counting").remote().count.remote())
"""


def run(*command, check=True, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=600)
    assert not check or done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def kubectl(*arguments, namespace=NAMESPACE, **more):
    return run("kubectl", "-n", namespace, *arguments, **more)


def helm(*arguments, **more):
    return run("helm", *arguments, "--namespace", NAMESPACE, **more)


def installed(verb, *more):
    """The release, with the values that this cluster needs."""
    values = {
        "store": {
            "uri": URI,
            "endpoint": ENDPOINT,
            "region": os.environ.get("AWS_DEFAULT_REGION", ""),
            "secretName": "teddy-cloud-s3",
        },
        "image": IMAGE,
        "users": {"users": [USER]},
    }
    return helm(verb, RELEASE, str(CHART), "-f", "-", *more, text=json.dumps(values))


def pod(role, image=IMAGE, **container):
    """A pod's template as those of runs are."""
    folders = {"tmp": "/tmp", "home": "/home/ray"}
    keys = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": "teddy-cloud-s3", "key": name}}}
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    ]
    settings = {
        "AWS_ENDPOINT_URL_S3": ENDPOINT,
        "AWS_DEFAULT_REGION": os.environ.get("AWS_DEFAULT_REGION", ""),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    return {
        "metadata": {"labels": {"app.kubernetes.io/name": "teddy-cloud", "teddy-cloud/role": role}},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": "teddy-cloud",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": POD_SECURITY,
            "containers": [
                {
                    "name": role,
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "env": [*({"name": name, "value": value} for name, value in settings.items()), *keys],
                    "securityContext": CONTAINER_SECURITY,
                    "volumeMounts": [{"name": name, "mountPath": path} for name, path in folders.items()],
                    **container,
                }
            ],
            "volumes": [{"name": name, "emptyDir": {}} for name in folders],
        },
    }


def ray_pod(role, cpus):
    return {
        "rayStartParams": {"num-cpus": str(cpus), "object-store-memory": "100000000"},
        "template": pod(
            role, resources={"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "3Gi"}}
        ),
    }


def ray_job(name):
    """A RayJob with the labels, the security and the token of a run; its cluster stays when it is done."""
    labels = {"app.kubernetes.io/managed-by": "teddy-cloud", "app.kubernetes.io/component": "run"}
    submitter = pod(
        "submitter", resources={"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    )
    workers = {"groupName": "workers", "replicas": 1, "minReplicas": 1, "maxReplicas": 1, **ray_pod("worker", 1)}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "submissionMode": "K8sJobMode",
            "entrypoint": shlex.join(["python", "-c", CODE]),
            "shutdownAfterJobFinishes": False,
            "activeDeadlineSeconds": 600,
            "submitterConfig": {"backoffLimit": 1},
            "submitterPodTemplate": submitter,
            "rayClusterSpec": {
                "rayVersion": "2.60.0",
                "authOptions": {"mode": "token", "secretName": "teddy-cloud-ray-token"},
                "headGroupSpec": ray_pod("head", 0),
                "workerGroupSpecs": [workers],
            },
        },
    }


def made_namespace(name):
    run("kubectl", "create", "namespace", name)
    run("kubectl", "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")


@pytest.fixture(scope="module", autouse=True)
def release():
    """The chart, installed in a namespace of its own."""
    require()
    try:
        for name in (NAMESPACE, OUTSIDE):
            made_namespace(name)
        keys = [f"--from-literal={name}={os.environ[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
        kubectl("create", "secret", "generic", "teddy-cloud-s3", *keys)
        installed("install")
        yield
    finally:
        run("kubectl", "delete", "namespace", NAMESPACE, OUTSIDE, "--ignore-not-found", "--timeout=180s", check=False)


@pytest.fixture(scope="module")
def job():
    """A RayJob that has succeeded, while its cluster still stands."""
    kubectl("create", "-f", "-", text=json.dumps(ray_job("policed")))
    end = time.monotonic() + 420
    while time.monotonic() < end:
        status = json.loads(kubectl("get", "rayjob", "policed", "-o", "json").stdout).get("status", {})
        if status.get("jobStatus") in {"SUCCEEDED", "FAILED", "STOPPED"}:
            break
        time.sleep(2)
    pods = kubectl("get", "pods", "-o", "wide").stdout
    said = kubectl("logs", "-l", "teddy-cloud/role=submitter", "--tail=60", check=False).stdout
    assert status.get("jobStatus") == "SUCCEEDED", f"{json.dumps(status)}\n{pods}\n{said}"
    yield status
    kubectl("delete", "rayjob", "policed", "--timeout=120s", "--ignore-not-found")


def address(role):
    return kubectl("get", "pods", "-l", f"teddy-cloud/role={role}", "-o", "jsonpath={.items[0].status.podIP}").stdout


@pytest.fixture(scope="module")
def head(job):  # noqa: ARG001 - the job's head
    """The head's address."""
    return address("head")


# A pod's first seconds may pass before the network policies know of it.
ASK = """
import sys, threading, time, urllib.error, urllib.request

def ask(number, url):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        answer = urllib.request.urlopen(request, timeout=8)
        answers[number] = f"answered {answer.status} {answer.read().decode()!r}"
    except urllib.error.HTTPError as error:
        answers[number] = f"answered {error.code}"
    except OSError as error:
        answers[number] = f"silence {error}"

time.sleep(5)
token, *urls = sys.argv[1:]
answers = [""] * len(urls)
threads = [threading.Thread(target=ask, args=item) for item in enumerate(urls)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*answers, sep="\\n")
"""


def ask(*urls, namespace=NAMESPACE, role=None, token=""):
    """What a pod with this role, or a stranger, hears when it asks there: an answer a line."""
    template = pod(role or "stranger", command=["python", "-c", ASK, token, *urls], env=[])
    if role is None:
        template["metadata"]["labels"] = {"app": "stranger"}
    template["spec"].pop("serviceAccountName")
    name = f"ask-{secrets.token_hex(3)}"
    template["metadata"]["name"] = name
    body = {"apiVersion": "v1", "kind": "Pod", **template}
    kubectl("create", "-f", "-", namespace=namespace, text=json.dumps(body))
    try:
        kubectl(
            "wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s", namespace=namespace
        )
        answers = kubectl("logs", name, namespace=namespace).stdout.splitlines()
    finally:
        kubectl("delete", "pod", name, "--wait=false", namespace=namespace)
    assert len(answers) == len(urls), answers
    return answers


def may(right, user, namespace=NAMESPACE):
    done = kubectl("auth", "can-i", *right.split(), f"--as={user}", namespace=namespace, check=False)
    assert done.stdout.strip() in {"yes", "no"}, done
    return done.stdout.strip() == "yes"


def token():
    found = kubectl("get", "secret", "teddy-cloud-ray-token", "-o", "jsonpath={.data.auth_token}").stdout
    return base64.b64decode(found).decode()


def test_the_api_server_takes_everything_that_the_chart_can_make():
    """With all that can be on; kinds that this cluster lacks are left out, and only those of other projects may be."""
    groups = set(run("kubectl", "api-versions").stdout.split())
    kueue = [f"--api-versions={group}" for group in groups if group.startswith("kueue.x-k8s.io/")]
    values = ["-f", str(CHART / "ci" / "full-values.yaml")]
    full = helm("template", RELEASE, str(CHART), "--no-hooks", *values, *kueue).stdout
    objects = [thing for thing in yaml.safe_load_all(full) if thing]
    known = [thing for thing in objects if thing["apiVersion"] in groups]
    assert {thing["kind"] for thing in objects if thing not in known} <= {"PodMonitor", "LocalQueue"}
    assert len(known) >= 15
    # Forced, since the release that is installed here owns objects of the same names.
    run(
        "kubectl",
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "-f",
        "-",
        text=yaml.safe_dump_all(known),
    )


def test_helm_test_writes_to_the_store_from_the_namespace():
    said = helm("test", RELEASE, "--logs").stdout
    assert "takes writes" in said


def test_helm_test_says_what_is_wrong_with_the_store():
    installed("upgrade", "--set", "store.uri=s3://teddy-no-such-bucket/runs")
    try:
        done = helm("test", RELEASE, "--logs", check=False)
        assert done.returncode != 0
        assert "there is no bucket teddy-no-such-bucket" in done.stdout + done.stderr
    finally:
        kubectl("delete", "pod", "teddy-cloud-test-store", "--now", "--ignore-not-found")
        installed("upgrade")


def test_an_upgrade_keeps_the_token():
    before = token()
    assert len(before) >= 32
    installed("upgrade", "--set", "job.retries=1")
    assert token() == before
    settings = json.loads(kubectl("get", "configmap", "teddy-cloud", "-o", "json").stdout)["data"]["settings.json"]
    assert json.loads(settings)["job"]["retries"] == 1


@pytest.mark.parametrize(
    "right",
    [
        "create rayjobs.ray.io", "patch rayjobs.ray.io", "delete rayjobs.ray.io", "watch rayclusters.ray.io",
        "list pods", "get pods --subresource=log", "create pods --subresource=portforward", "list events",
        "list jobs.batch", "list resourcequotas",
        "get secrets/teddy-cloud-ray-token", "get configmaps/teddy-cloud",
    ],
)  # fmt: skip
def test_a_user_may(right):
    assert may(right, USER)
    assert not may(right, USER, namespace=OUTSIDE)


@pytest.mark.parametrize(
    "right",
    [
        "create pods", "create pods --subresource=exec", "delete pods", "list secrets", "get secrets/teddy-cloud-s3",
        "update secrets/teddy-cloud-ray-token", "create jobs.batch", "patch configmaps/teddy-cloud", "list configmaps",
        "create roles.rbac.authorization.k8s.io", "patch networkpolicies.networking.k8s.io", "list nodes",
        "create serviceaccounts --subresource=token",
    ],
)  # fmt: skip
def test_a_user_may_not(right):
    assert not may(right, USER)


def test_the_workload_may_do_nothing():
    account = f"system:serviceaccount:{NAMESPACE}:teddy-cloud"
    for right in ("list pods", "get secrets", "create rayjobs.ray.io", "get configmaps", "create pods", "list nodes"):
        assert not may(right, account), right


@pytest.mark.usefixtures("job")
def test_a_run_works_with_the_policies_in_force():
    said = kubectl("logs", "-l", "teddy-cloud/role=submitter", "--tail=-1").stdout
    assert "takes writes" in said


def silent(answers):
    return all(answer.startswith("silence") for answer in answers)


def test_nobody_else_reaches_the_head(head):
    ports = [f"http://{head}:{port}/" for port in (8265, 6379, 8080, 10001)]
    assert silent(ask(*ports, namespace=OUTSIDE))
    assert silent(ask(*ports))


def test_the_dashboard_wants_the_token(head):
    url = f"http://{head}:8265/api/jobs/"
    assert ask(url, role="submitter") == ["answered 401"]
    (answer,) = ask(url, role="submitter", token=token())
    assert answer.startswith("answered 200")


@pytest.mark.usefixtures("job")
def test_a_user_sees_the_dashboard_through_a_tunnel_with_the_token():
    name = kubectl("get", "pods", "-l", "teddy-cloud/role=head", "-o", "name").stdout.strip()
    tunnel = ["kubectl", "-n", NAMESPACE, f"--as={USER}", "port-forward", name, ":8265"]
    with subprocess.Popen(tunnel, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        try:
            said = forward.stdout.readline()
            assert said.startswith("Forwarding from 127.0.0.1:"), said + forward.stdout.read()
            url = f"http://127.0.0.1:{said.split()[2].rpartition(':')[2]}/api/jobs/"
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(url, timeout=20)
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token()}"})
            assert urllib.request.urlopen(request, timeout=20).status == 200
        finally:
            forward.terminate()


def test_pods_of_a_run_reach_ray_and_little_else(head):
    """Metrics come under Ray's prefix, as the Grafana dashboard asks for them; the API server does not answer."""
    server = kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}", namespace="default").stdout
    worker = address("worker")
    metrics = [f"http://{worker}:8080/metrics", f"http://{head}:8080/metrics"]
    found, _, api = ask(*metrics, f"https://{server}/version", role="worker")
    assert re.search(r"nray_teddy_store_retries_total{[^}]*} 3.0", found), found[:2000]
    assert silent([api])
    assert silent(ask(*metrics, role="submitter"))


@pytest.mark.usefixtures("job")
def test_a_drain_does_not_evict_the_head():
    name = kubectl("get", "pods", "-l", "teddy-cloud/role=head", "-o", "name").stdout.strip().removeprefix("pod/")
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"
    done = kubectl("create", "--raw", path, "-f", "-", text=json.dumps(body), check=False)
    assert done.returncode != 0
    assert "disruption budget" in done.stderr


def kinds(scope):
    listed = run("kubectl", "api-resources", "--verbs=list", scope, "-o", "name").stdout.split()
    return [kind for kind in listed if not kind.startswith("events")]


def names(listed):
    return listed.stdout.split()


def test_uninstall_leaves_nothing_behind():
    """In the namespace is what was there before; of the cluster's own kinds, nothing has the release's label."""
    kubectl("delete", "rayjob", "--all", "--cascade=foreground", "--timeout=120s")
    helm("uninstall", RELEASE, "--wait")
    own = kinds("--namespaced=true")
    left = {name for kind in own for name in names(kubectl("get", kind, "-o", "name", check=False))}
    assert left == {"configmap/kube-root-ca.crt", "secret/teddy-cloud-s3", "serviceaccount/default"}
    label = f"app.kubernetes.io/instance={RELEASE}"
    found = [run("kubectl", "get", kind, "-l", label, "-o", "name") for kind in kinds("--namespaced=false")]
    assert not [name for listed in found for name in names(listed)]
