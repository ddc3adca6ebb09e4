"""The Kubernetes API as the real client meets it: a small HTTP server that answers as an API server does."""

import base64
import http.server
import json
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import pytest

from teddy_cloud.cluster import api
from teddy_cloud.cluster.api import Cluster, ExistsError, ForbiddenError, NotFoundError, NotInstalledError
from teddy_ray.errors import UserError, WorldError

JOBS = "/apis/ray.io/v1/namespaces/ml/rayjobs"


def status(code: int, message: str, **details) -> tuple[int, dict]:
    return code, {"kind": "Status", "apiVersion": "v1", "code": code, "message": message, "details": details}


class ApiServer(http.server.ThreadingHTTPServer):
    """``answers`` maps "GET /path" to a status and JSON or text, or to a function of the query and body."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.server.asked.append((self.command, url.path, query, dict(self.headers), body))
        found = self.server.answers.get(f"{self.command} {url.path}", (404, "404 page not found\n"))
        code, said = found(query, body) if callable(found) else found
        data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(BrokenPipeError):  # who was kept waiting may have gone
            self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ApiServer() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def connect(tmp_path, monkeypatch):
    def make(url: str) -> Cluster:
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": "secret-token"}}],
        }  # fmt: skip
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        return Cluster.connect()

    return make


@pytest.fixture
def cluster(server, connect):
    return connect(server.url)


def test_a_run_is_created_read_changed_and_deleted(server, cluster):
    made = {"metadata": {"name": "a"}, "spec": {}}
    server.answers |= {f"POST {JOBS}": (201, made), f"GET {JOBS}/a": (200, made)}
    server.answers |= {f"PATCH {JOBS}/a": (200, made), f"DELETE {JOBS}/a": (200, status(200, "")[1])}
    assert cluster.create(made, dry_run=True) == cluster.get("a") == cluster.patch("a", {"spec": {"x": 1}}) == made
    cluster.delete("a")
    create, read, patch, delete = server.asked
    assert create[2] == {"fieldValidation": "Strict", "dryRun": "All"}
    assert patch[3]["Content-Type"] == "application/merge-patch+json"
    assert json.loads(patch[4]) == {"spec": {"x": 1}}
    assert delete[2] == {"propagationPolicy": "Background"}
    authorization = {name.lower(): value for name, value in read[3].items()}["authorization"]
    assert authorization == "Bearer secret-token"


def test_a_list_is_read_page_by_page(server, cluster):
    def page(query, _):
        more = {"continue": "next"} if "continue" not in query else {}
        return 200, {"items": [{"metadata": {"name": query.get("continue", "first")}}], "metadata": more}

    server.answers[f"GET {JOBS}"] = page
    assert [each["metadata"]["name"] for each in cluster.list()] == ["first", "next"]


def test_events_are_those_of_the_run_and_what_it_made(server, cluster):
    names = [
        ("RayJob", "a"),
        ("RayCluster", "a-x1y2z"),
        ("Pod", "a-x1y2z-head-k8s9d"),
        ("Job", "a"),
        ("Pod", "a-9z8y7"),
    ]
    others = [("Pod", "ab-x1y2z"), ("RayJob", "a-ipc10-longer"), ("Service", "a")]
    items = [{"involvedObject": {"kind": kind, "name": name}, "eventTime": "t"} for kind, name in names + others]
    server.answers["GET /api/v1/namespaces/ml/events"] = (200, {"items": items})
    found = [(each["involvedObject"]["kind"], each["involvedObject"]["name"]) for each in cluster.events("a")]
    assert found == names


def test_settings_and_the_token_are_the_charts(server, cluster):
    settings = {"store": {"uri": "s3://b/r"}, "image": "i:1"}
    data = {"settings.json": json.dumps(settings)}
    server.answers["GET /api/v1/namespaces/ml/configmaps/teddy-cloud"] = (200, {"data": data})
    secret = {"auth_token": base64.b64encode(b"tok").decode()}
    server.answers["GET /api/v1/namespaces/ml/secrets/teddy-cloud-ray-token"] = (200, {"data": secret})
    assert (cluster.settings().store.uri, cluster.token()) == ("s3://b/r", "tok")


@pytest.mark.parametrize("data", [None, {}, {"settings.json": "{"}, {"settings.json": '{"store": {}}'}])
def test_a_configmap_of_somebody_else_is_refused(server, cluster, data):
    server.answers["GET /api/v1/namespaces/ml/configmaps/teddy-cloud"] = (200, {"data": data})
    with pytest.raises(UserError, match="ConfigMap teddy-cloud in namespace ml"):
        cluster.settings()


NO_RIGHT = (
    'rayjobs.ray.io is forbidden: User "jane" cannot create resource "rayjobs" in API group "ray.io"'
    ' in the namespace "ml"'
)
NO_RIGHT_ANYWHERE = 'nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope'
ANSWERS = [
    (status(401, "Unauthorized"), UserError, "does not accept your credentials"),
    (status(403, NO_RIGHT), ForbiddenError, r"you \(jane\) may not create rayjobs in namespace ml"),
    (status(403, NO_RIGHT_ANYWHERE), ForbiddenError, r"you \(jane\) may not list nodes in the whole cluster"),
    (
        status(403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true'),
        UserError,
        "enforces the Pod Security Standard restricted, which the pod violates: runAsNonRoot",
    ),
    (
        status(403, 'rayjobs.ray.io "a" is forbidden: exceeded quota: q, requested: count/rayjobs.ray.io=1, used: 1'),
        UserError,
        "quota q is used up",
    ),
    (
        status(403, 'admission webhook "v.io" denied the request: no latest tags'),
        UserError,
        "v.io refuses it: no latest",
    ),
    (
        status(400, 'admission webhook "v.io" denied the request: no latest tags'),
        UserError,
        "v.io refuses it: no latest",
    ),
    ((404, "404 page not found\n"), NotInstalledError, "KubeRay is not installed in this cluster"),
    (
        status(404, 'namespaces "ml" not found', name="ml", kind="namespaces"),
        NotFoundError,
        'namespaces "ml" not found',
    ),
    (status(409, 'rayjobs.ray.io "a" already exists', name="a"), ExistsError, "already exists"),
    (status(422, "spec.backoffLimit: Invalid value: -1"), UserError, "refuses to create RayJob a .*Invalid value: -1"),
    (status(400, 'strict decoding error: unknown field "spec.x"'), UserError, 'unknown field "spec.x"'),
    (status(500, "etcd is full"), WorldError, "it answered 500: etcd is full"),
    ((503, "<html>gateway</html>"), WorldError, "it answered 503"),
    ((200, "<html>a login page</html>"), WorldError, "does not answer as a Kubernetes API does"),
]


@pytest.mark.parametrize(("answer", "kind", "words"), ANSWERS)
def test_each_refusal_is_one_sentence(server, cluster, answer, kind, words):
    server.answers[f"POST {JOBS}"] = answer
    with pytest.raises(kind, match=words) as error:
        cluster.create({"metadata": {"name": "a"}})
    assert "\n" not in str(error.value)


def test_what_is_not_there_is_none_and_a_missing_api_is_said(server, cluster):
    server.answers[f"GET {JOBS}/a"] = status(404, 'rayjobs.ray.io "a" not found', name="a")
    assert cluster.get("a") is None
    with pytest.raises(NotInstalledError, match="KubeRay is not installed"):
        cluster.get("b")  # the router's own 404


def test_a_hiccup_is_tried_again_and_a_write_that_may_have_arrived_is_not(server, cluster):
    tries = []

    def busy(*_):
        tries.append(1)
        return (503, "busy") if len(tries) == 1 else (200, {"metadata": {"name": "a"}})

    server.answers |= {f"GET {JOBS}/a": busy, f"POST {JOBS}": busy}
    assert cluster.get("a") is not None
    assert len(tries) == 2
    tries.clear()
    with pytest.raises(WorldError):
        cluster.create({"metadata": {"name": "a"}})
    assert len(tries) == 1


def test_an_api_that_is_down_or_mute_is_told_of_soon(server, connect, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(
        WorldError, match=rf"cannot list pods: .*127.0.0.1:{port} cannot be reached \(connection refused"
    ):
        connect(f"http://127.0.0.1:{port}").pods("a")
    with pytest.raises(WorldError, match="its name"):
        connect("http://no-such-host.invalid").pods("a")
    monkeypatch.setattr(api, "READ_SECONDS", 0.3)
    server.answers["GET /api/v1/namespaces/ml/pods"] = lambda *_: time.sleep(2) or (200, {})
    began = time.monotonic()
    with pytest.raises(WorldError, match="does not answer in time"):
        connect(server.url).request("GET", "/api/v1/namespaces/ml/pods", doing="list pods")
    assert time.monotonic() - began < 10


def test_logs_are_lines_and_say_where_to_go_on(server, cluster):
    text = "2026-11-21T05:00:00.1Z one\n2026-11-21T05:00:00.2Z two \xff\n2026-11-21T05:00:01Z half"
    server.answers["GET /api/v1/namespaces/ml/pods/p/log"] = (200, text)
    lines = list(cluster.pod_log("p", "main", follow=True, since="2026-11-21T05:00:00.1Z"))
    assert [line.partition(" ")[2] for line in lines] == ["one", "two \xff", "half"]
    query = server.asked[-1][2]
    assert query == {"timestamps": "true", "follow": "true", "container": "main", "sinceTime": "2026-11-21T05:00:00.1Z"}


def test_rights_are_asked_for_by_name(server, cluster):
    def review(_, body):
        asked = json.loads(body)["spec"]["resourceAttributes"]
        return 201, {"status": {"allowed": asked["verb"] == "get" and asked["group"] == "ray.io"}}

    server.answers["POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = review
    assert cluster.can_i("get", "rayjobs", group="ray.io")
    assert not cluster.can_i("delete", "rayjobs", group="ray.io")
