"""The chart on a real cluster: admitted, useful with its network policies in force, and gone without a trace.

KUBECONFIG names the cluster; KubeRay, an S3 server and the image must be there:

    TEDDY_E2E_IMAGE          the image, as nodes pull it
    TEDDY_E2E_STORE          s3://bucket/prefix
    TEDDY_E2E_ENDPOINT       the S3 server, as pods reach it
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION

The test makes the namespace teddy-chart, which must not be there, and removes it.
"""

import base64
import json
import os
import secrets
import shlex
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "teddy-cloud"
NAMESPACE, OUTSIDE, RELEASE = "teddy-chart", "teddy-chart-outside", "teddy"
USER = "ada@example.com"
ENDPOINT = os.environ.get("TEDDY_E2E_ENDPOINT") or os.environ.get("TEDDY_S3_ENDPOINT_CLUSTER", "")
IMAGE = os.environ.get("TEDDY_E2E_IMAGE") or f"{os.environ.get('TEDDY_REGISTRY', '')}/teddy-cloud:dev"
STORE = os.environ.get("TEDDY_E2E_STORE") or f"s3://{os.environ.get('TEDDY_S3_BUCKET', '')}/e2e"
URI = f"{STORE}/chart-{secrets.token_hex(4)}"
NEEDED = [
    *(f"{name} is not set" for name in ("KUBECONFIG", "AWS_ACCESS_KEY_ID") if not os.environ.get(name)),
    *(f"{name} is not installed" for name in ("helm", "kubectl") if not shutil.which(name)),
    *([] if ENDPOINT else ["TEDDY_E2E_ENDPOINT is not set"]),
]
pytestmark = [
    pytest.mark.skipif(bool(NEEDED), reason="; ".join(NEEDED) or "all is here"),
    pytest.mark.timeout(900),
]

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
# A task on the worker and the driver on the head both write to the store; then a counter, as our own metrics are.
CODE = (
    f"import ray; from teddy_ray.store.probe import main; from ray.util.metrics import Counter; ray.init();"
    f"assert ray.get(ray.remote(num_cpus=1)(main).remote([{URI!r}])) == 0; assert main([{URI!r}]) == 0;"
    f"counter = Counter('teddy_store_retries_total'); counter.inc(3); import time; time.sleep(12)"
)


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


@pytest.fixture(scope="module")
def release():
    """The chart, installed in a namespace of its own."""
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
def job(release):
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
    kubectl("delete", "rayjob", "policed", "--timeout=120s")


@pytest.fixture(scope="module")
def head(job):
    """The head's address."""
    found = kubectl("get", "pods", "-l", "teddy-cloud/role=head", "-o", "jsonpath={.items[0].status.podIP}")
    return found.stdout.strip()


ASK = """
import sys, urllib.error, urllib.request
url, token = sys.argv[1:3]
try:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = urllib.request.urlopen(request, timeout=8)
    print("answered", answer.status, answer.read().decode()[:200000])
except urllib.error.HTTPError as error:
    print("answered", error.code)
except OSError as error:
    print("silence", error)
"""


def ask(url, *, namespace=NAMESPACE, role=None, token=""):
    """What a pod hears when it asks there. It waits until the policies know its address."""
    wait = "import time; time.sleep(6)"
    template = pod(role or "none", command=["python", "-c", wait + ASK, url, token], env=[])
    if role is None:
        template["metadata"]["labels"] = {"app": "stranger"}
    template["spec"].pop("serviceAccountName")
    name = f"ask-{secrets.token_hex(3)}"
    body = {"apiVersion": "v1", "kind": "Pod", **template}
    body["metadata"]["name"] = name
    kubectl("create", "-f", "-", namespace=namespace, text=json.dumps(body))
    try:
        kubectl(
            "wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s", namespace=namespace
        )
        return kubectl("logs", name, namespace=namespace).stdout
    finally:
        kubectl("delete", "pod", name, "--now", namespace=namespace)


def may(right, user, namespace=NAMESPACE):
    done = kubectl("auth", "can-i", *right.split(), f"--as={user}", namespace=namespace, check=False)
    assert done.stdout.strip() in {"yes", "no"}, done
    return done.stdout.strip() == "yes"


def token():
    found = kubectl("get", "secret", "teddy-cloud-ray-token", "-o", "jsonpath={.data.auth_token}").stdout
    return base64.b64decode(found).decode()


def test_the_api_server_takes_everything_that_the_chart_can_make(release):
    """With all that can be on; kinds that this cluster lacks are left out, and only those of other projects may be."""
    groups = set(run("kubectl", "api-versions").stdout.split())
    full = helm("template", "full", str(CHART), "-f", str(CHART / "ci" / "full-values.yaml"), "--no-hooks").stdout
    kueue = "kueue.x-k8s.io/v1beta2"
    if kueue in groups:
        full = full.replace("kueue.x-k8s.io/v1beta1", kueue)
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


def test_helm_test_writes_to_the_store_from_the_namespace(release):
    said = helm("test", RELEASE, "--logs").stdout
    assert "takes writes" in said


def test_helm_test_says_what_is_wrong_with_the_store(release):
    installed("upgrade", "--set", "store.uri=s3://teddy-no-such-bucket/runs")
    try:
        done = helm("test", RELEASE, "--logs", check=False)
        assert done.returncode != 0
        assert "there is no bucket teddy-no-such-bucket" in done.stdout + done.stderr
    finally:
        kubectl("delete", "pod", "teddy-cloud-test-store", "--now", "--ignore-not-found")
        installed("upgrade")


def test_an_upgrade_keeps_the_token(release):
    before = token()
    assert len(before) >= 32
    installed("upgrade", "--set", "job.retries=1")
    assert token() == before
    settings = json.loads(kubectl("get", "configmap", "teddy-cloud", "-o", "json").stdout)["data"]["settings.json"]
    assert json.loads(settings)["job"]["retries"] == 1


@pytest.mark.parametrize(
    "right",
    [
        "create rayjobs.ray.io", "patch rayjobs.ray.io", "delete rayjobs.ray.io", "watch rayclusters.ray.io", "list pods",
        "get pods --subresource=log", "create pods --subresource=portforward", "list events", "list jobs.batch", "list resourcequotas",
        "list localqueues.kueue.x-k8s.io", "get secrets/teddy-cloud-ray-token", "get configmaps/teddy-cloud",
    ],
)  # fmt: skip
def test_a_user_may(release, right):
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
def test_a_user_may_not(release, right):
    assert not may(right, USER)


def test_the_workload_may_do_nothing(release):
    account = f"system:serviceaccount:{NAMESPACE}:teddy-cloud"
    for right in ("list pods", "get secrets", "create rayjobs.ray.io", "get configmaps", "create pods", "list nodes"):
        assert not may(right, account), right


def test_a_run_works_with_the_policies_in_force(job):
    said = kubectl("logs", "-l", "teddy-cloud/role=submitter", "--tail=-1").stdout
    assert "takes writes" in said


def test_nobody_else_reaches_the_head(head):
    assert "silence" in ask(f"http://{head}:8265/api/version", namespace=OUTSIDE)
    assert "silence" in ask(f"http://{head}:8265/api/version")
    assert "silence" in ask(f"http://{head}:8080/metrics", namespace=OUTSIDE)


def test_the_dashboard_wants_the_token(head):
    assert "answered 401" in ask(f"http://{head}:8265/api/jobs/", role="submitter")
    assert "answered 200" in ask(f"http://{head}:8265/api/jobs/", role="submitter", token=token())


def test_a_user_sees_the_dashboard_through_a_tunnel_with_the_token(job):
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


def test_metrics_come_under_the_dashboards_names(job):
    """Ray's prefix and nothing else: what the Grafana dashboard asks for."""
    address = kubectl("get", "pods", "-l", "teddy-cloud/role=head", "-o", "jsonpath={.items[0].status.podIP}").stdout
    assert "ray_teddy_store_retries_total" in ask(f"http://{address}:8080/metrics", role="worker")


def test_pods_of_a_run_reach_nothing_else(head):
    """Their way out is DNS and the store's port: not the API server, nor a stranger in their own namespace."""
    server = kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}", namespace="default").stdout
    assert "silence" in ask(f"https://{server}/version", role="worker")
    assert "silence" in ask(f"http://{head}:8080/metrics", role="submitter")


def test_a_drain_does_not_evict_the_head(job):
    name = kubectl("get", "pods", "-l", "teddy-cloud/role=head", "-o", "name").stdout.strip().removeprefix("pod/")
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"
    done = kubectl("create", "--raw", path, "-f", "-", text=json.dumps(body), check=False)
    assert done.returncode != 0
    assert "disruption budget" in done.stderr


def test_uninstall_leaves_nothing_behind(release):
    kubectl("delete", "rayjob", "--all", "--timeout=120s")
    helm("uninstall", RELEASE, "--wait")
    kinds = run("kubectl", "api-resources", "--verbs=list", "-o", "name").stdout.split()
    left = []
    for kind in kinds:
        if kind not in {"events", "events.events.k8s.io"}:
            left += run(
                "kubectl", "get", kind, "-A", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name", check=False
            ).stdout.split()
    assert left == []
