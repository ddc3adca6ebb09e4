"""The RayJob of a run: what KubeRay takes, what restricted namespaces admit, what holds for every job and settings."""

import base64
import importlib.util
import itertools
import json
import random
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from teddy_cloud.cluster import quantities
from teddy_cloud.cluster.render import Job, manifest_yaml, render, run_uri
from teddy_cloud.cluster.settings import Settings
from teddy_ray.errors import UserError
from teddy_ray.pipeline.names import run_name
from teddy_ray.spec import DataSpec, DistillSpec, Spec, resolve

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT.parent / "shared" / "cluster" / "manifests" / "kuberay-operator.yaml"
MINIMAL = {"store": {"uri": "s3://bucket/teddy"}, "image": "image:1"}


def settings(**changes):
    return Settings.validate_values({**MINIMAL, **changes}, where="here")


def job(spec=None, gpus=0, workers=1, **more):
    spec = spec or Spec()
    return Job(run=run_name(spec), namespace="ml", spec=spec, gpus=gpus, workers=workers, **more)


@pytest.fixture(scope="module")
def generate():
    """k8s/generate.py, which is a script and no package."""
    found = importlib.util.spec_from_file_location("generate", ROOT / "k8s" / "generate.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def combinations():
    """Many (job, settings), every value at least twice, always the same ones."""
    choose = random.Random(7)
    store = [
        {"uri": "s3://b"},
        {"uri": "s3://b/p/", "endpoint": "http://s3.x.svc:7070", "region": "eu-west-1", "secretName": "keys"},
    ]
    head = [{}, {"cpu": "250m", "memory": "1.5Gi", "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]}]
    worker = [
        {},
        {"cpu": "1.5", "memory": "3G", "gpusPerNode": 4, "slotsPerPod": 3, "gpuType": "H100", "sharedMemory": "1Gi"},
        {"nodeSelector": {"c": "d"}, "tolerations": [{"key": "k", "value": "v", "effect": "NoExecute"}]},
    ]
    limits = [
        {},
        {"queue": "q", "priority": "p", "queueTimeoutMinutes": 5},
        {"priority": "p", "queueTimeoutMinutes": 5, "maxHours": 0.5, "retries": 0, "drainSeconds": 0, "keepMinutes": 9},
    ]
    rest = [{}, {"imagePullPolicy": "Always", "imagePullSecrets": ["x", "y"], "serviceAccount": "robot"}]
    slots = [(0, 1), (0, 7), (1, 0), (8, 8), (16, 0), (21, 0)]
    every = list(itertools.product(store, head, worker, limits, rest, slots, [False, True]))
    for s, h, w, limit, r, (gpus, workers), spot in choose.sample(every, 120):
        given = settings(store=s, head=h, worker=w, job=limit, **r)
        yield job(gpus=gpus, workers=workers, spot=spot), given


@pytest.fixture(scope="module")
def many():
    return [(asked, given, render(asked, given)) for asked, given in combinations()]


def templates(manifest):
    """(role, pod template) of all pods."""
    cluster = manifest["spec"]["rayClusterSpec"]
    yield "submitter", manifest["spec"]["submitterPodTemplate"]
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield "worker", group["template"]


def container(template):
    (only,) = template["spec"]["containers"]
    return only


def env(template):
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(template)["env"]}


def groups(gpus=0, workers=0, **worker):
    rendered = render(job(gpus=gpus, workers=workers), settings(worker=worker))
    return [
        (group["replicas"], int(group["rayStartParams"]["num-cpus"]))
        for group in rendered["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    ]


# Files.


def test_the_examples_and_golden_files_are_what_the_renderer_makes(generate):
    made = {path.as_posix(): text for path, text in generate.files().items()}
    there = {name: (ROOT / name).read_text(encoding="utf-8") for name in made}
    assert made == there, "if the change is meant: make k8s"


def test_no_generated_file_is_left_over(generate):
    on_disk = {
        path.relative_to(ROOT) for folder in ("k8s", "tests/unit/golden") for path in (ROOT / folder).glob("*.yaml")
    }
    assert on_disk == set(generate.files())


def test_yaml_reads_back_as_the_manifest(many):
    for _, _, manifest in many[:10]:
        text = manifest_yaml(manifest)
        assert yaml.safe_load(text) == manifest
        assert "&id" not in text


# KubeRay's schema.


def strict(schema):
    """The schema with what is unknown refused: the API server drops it in silence, and so would a misspelt field be."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    stricter = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        stricter["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields", False))
    return stricter


@pytest.fixture(scope="module")
def validator():
    if not KUBERAY.exists():
        pytest.skip("KubeRay's manifest is not beside this checkout; tests/e2e asks a real API server instead")
    for document in yaml.load_all(KUBERAY.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if document["kind"] == "CustomResourceDefinition" and document["spec"]["names"]["kind"] == "RayJob":
            (version,) = [version for version in document["spec"]["versions"] if version["name"] == "v1"]
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            return jsonschema.Draft202012Validator(schema)
    raise AssertionError("no RayJob in KubeRay's manifest")


def test_kuberays_schema_takes_it(validator, many):
    for _, _, manifest in many:
        validator.validate(manifest)


def test_the_schema_would_refuse_a_misspelt_field(validator):
    manifest = render(job(), settings())
    manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["hostNetwrok"] = True
    with pytest.raises(jsonschema.ValidationError, match="hostNetwrok"):
        validator.validate(manifest)


# What restricted namespaces admit (https://kubernetes.io/docs/concepts/security/pod-security-standards).


def test_every_pod_is_restricted(many):
    for _, given, manifest in many:
        for role, template in templates(manifest):
            pod, only = template["spec"], container(template)
            assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(pod), role
            assert {key for volume in pod["volumes"] for key in volume} == {"name", "emptyDir"}
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1000
            assert only["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert all("hostPort" not in port for port in only.get("ports", []))
            assert pod["automountServiceAccountToken"] is False
            assert pod["enableServiceLinks"] is False
            assert pod["serviceAccountName"] == given.service_account


def test_what_a_container_writes_to_is_mounted(many):
    for _, _, manifest in many:
        for role, template in templates(manifest):
            mounts = {mount["mountPath"]: mount["name"] for mount in container(template)["volumeMounts"]}
            assert set(mounts) == {"/tmp", "/home/ray"} | ({"/dev/shm"} if role != "submitter" else set())
            assert set(mounts.values()) == {volume["name"] for volume in template["spec"]["volumes"]}
            assert env(template)["HOME"] == "/home/ray"


def test_container_names_ports_images_and_labels(many):
    names = {"submitter": "ray-job-submitter", "head": "ray-head", "worker": "ray-worker"}
    for asked, given, manifest in many:
        assert manifest["metadata"]["labels"]["teddy-cloud/run"] == manifest["metadata"]["name"] == asked.run
        for role, template in templates(manifest):
            only = container(template)
            assert (only["name"], only["image"]) == (names[role], given.image)
            assert only["imagePullPolicy"] == given.image_pull_policy
            ports = {port["name"]: port["containerPort"] for port in only.get("ports", [])}
            assert (ports.get("metrics") == 8080) == (role != "submitter")
            assert ("dashboard" in ports and "gcs-server" in ports) == (role == "head")
            labels = template["metadata"]["labels"]
            assert (labels["teddy-cloud/run"], labels["teddy-cloud/role"]) == (asked.run, role)
            assert labels["app.kubernetes.io/managed-by"] == "teddy-cloud"


# Slots and resources.


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"gpus": 16}, [(2, 8)]),
        ({"gpus": 8}, [(1, 8)]),
        ({"gpus": 4}, [(1, 4)]),
        ({"gpus": 20}, [(2, 8), (1, 4)]),
        ({"gpus": 9}, [(1, 8), (1, 1)]),
        ({"gpus": 3, "gpusPerNode": 1}, [(3, 1)]),
        ({"workers": 5}, [(5, 1)]),
        ({"workers": 5, "slotsPerPod": 2}, [(2, 2), (1, 1)]),
        ({"workers": 2, "slotsPerPod": 16}, [(1, 2)]),
    ],
)
def test_slots_become_groups_of_full_pods_and_a_rest(asked, expected):
    assert groups(**asked) == expected


def test_groups_offer_just_the_slots_that_were_asked_for(many):
    for asked, given, manifest in many:
        slots, gpus = asked.gpus or asked.workers, 0
        cluster = manifest["spec"]["rayClusterSpec"]
        for group in cluster["workerGroupSpecs"]:
            assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] > 0
            size, params = int(group["rayStartParams"]["num-cpus"]), group["rayStartParams"]
            resources = container(group["template"])["resources"]
            for kind in resources.values():
                assert kind.get("nvidia.com/gpu") == params.get("num-gpus") == (str(size) if asked.gpus else None)
            assert quantities.number(resources["requests"]["cpu"]) == pytest.approx(
                size * quantities.number(given.worker.cpu)
            )
            gpus += group["replicas"] * int(params.get("num-gpus", 0))
            slots -= group["replicas"] * size
        assert (slots, gpus) == (0, asked.gpus)
        assert len({group["groupName"] for group in cluster["workerGroupSpecs"]}) == len(cluster["workerGroupSpecs"])
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert "enableInTreeAutoscaling" not in cluster


def test_memory_is_limited_to_what_is_asked_for_and_holds_the_object_store(many):
    for _, _, manifest in many:
        cluster = manifest["spec"]["rayClusterSpec"]
        for _, template in templates(manifest):
            resources = container(template)["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            spec = group["template"]["spec"]
            memory = quantities.number(container(group["template"])["resources"]["limits"]["memory"])
            (shared,) = [v["emptyDir"]["sizeLimit"] for v in spec["volumes"] if v["name"] == "shared-memory"]
            store = int(group["rayStartParams"]["object-store-memory"])
            assert 75 * 1024**2 <= store < quantities.number(shared) < memory


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"worker": {"sharedMemory": "16Gi", "memory": "16Gi"}}, "worker.sharedMemory = 16Gi"),
        ({"worker": {"sharedMemory": "64Mi"}}, "worker.sharedMemory: 64Mi"),
        ({"head": {"memory": "128Mi"}}, "head.memory"),
    ],
)
def test_memory_that_ray_cannot_live_with_is_refused(changes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        render(job(), settings(**changes))


def test_quantities():
    assert [quantities.number(text) for text in ("250m", "2", "1.5", "2Gi", "3G")] == [0.25, 2, 1.5, 2 * 2**30, 3e9]
    assert [quantities.times(text, 3) for text in ("500m", "4", "16Gi", "1.5")] == ["1500m", "12", "48Gi", "4500m"]
    assert quantities.mebibytes(quantities.number("1Gi") / 4) == "256Mi"
    with pytest.raises(ValueError, match="quantity"):
        quantities.number("8 GB")


# The job.


def test_deadlines_retries_and_the_end():
    spec = render(job(), settings(job={"maxHours": 1.5, "queueTimeoutMinutes": 10, "retries": 7}))["spec"]
    assert (spec["activeDeadlineSeconds"], spec["preRunningDeadlineSeconds"], spec["backoffLimit"]) == (5400, 600, 7)
    assert (spec["submissionMode"], spec["shutdownAfterJobFinishes"]) == ("K8sJobMode", True)
    assert spec["ttlSecondsAfterFinished"] == 0, "a finished run must not hold its GPUs"
    assert render(job(), settings(job={"keepMinutes": 2}))["spec"]["ttlSecondsAfterFinished"] == 120


@pytest.mark.parametrize(
    "limits", [{}, {"queueTimeoutMinutes": 5, "queue": "q"}, {"queueTimeoutMinutes": 60, "maxHours": 1}]
)
def test_no_deadline_for_waiting_in_a_queue_or_beyond_the_whole_ones(limits):
    assert "preRunningDeadlineSeconds" not in render(job(), settings(job=limits))["spec"]


def test_a_pod_may_finish_what_ray_drains(many):
    for _, given, manifest in many:
        for role, template in templates(manifest):
            if role != "submitter":
                assert template["spec"]["terminationGracePeriodSeconds"] == given.job.drain_seconds + 30
                assert env(template)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == str(given.job.drain_seconds)


def test_priority_is_kueues_with_a_queue_and_kubernetes_without():
    queued = render(job(), settings(job={"queue": "gpus", "priority": "high"}))
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    assert all("priorityClassName" not in template["spec"] for _, template in templates(queued))
    plain = render(job(), settings(job={"priority": "high"}))
    assert not [label for label in plain["metadata"]["labels"] if "kueue" in label]
    assert all(template["spec"]["priorityClassName"] == "high" for _, template in templates(plain))


def test_only_workers_look_for_spot_nodes_and_gpus():
    given = settings(worker={"gpuType": "H100"})
    roles = dict(templates(render(job(gpus=8, workers=0, spot=True), given)))
    tolerated = {role: {entry["key"] for entry in roles[role]["spec"].get("tolerations", [])} for role in roles}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= tolerated["worker"]
    assert tolerated["head"] == tolerated["submitter"] == set()
    assert roles["worker"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "H100"}
    operators = {
        role: {
            wish["preference"]["matchExpressions"][0]["operator"]
            for wish in roles[role]["spec"]["affinity"]["nodeAffinity"][
                "preferredDuringSchedulingIgnoredDuringExecution"
            ]
        }
        for role in ("head", "worker")
    }
    assert operators == {"head": {"NotIn"}, "worker": {"In"}}
    on_cpus = dict(templates(render(job(), given)))["worker"]["spec"]
    assert "tolerations" not in on_cpus
    assert "nodeSelector" not in on_cpus
    assert "affinity" not in on_cpus


def test_the_head_is_not_moved_and_workers_are_spread():
    roles = dict(templates(render(job(), settings())))
    assert roles["head"]["metadata"]["annotations"] == {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    (spread,) = roles["worker"]["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert spread["labelSelector"]["matchLabels"].items() <= roles["worker"]["metadata"]["labels"].items()


# What travels.


def travelled(manifest):
    """The spec as the driver sees it: Kubernetes makes one ``$`` of two, and expands ``$(NAME)``."""
    text = env(manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"])["TEDDY_SPEC"]
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", text), "Kubernetes would expand this"
    return Spec.from_json(text.replace("$$", "$"))


@pytest.mark.parametrize(
    "odd",
    [
        "$(HOME)",
        "$$(HOME)",
        "$$$",
        "a'b\"c",
        "line\nline",
        "`id` ; rm -rf / #",
        "{{ .Values }}",
        "é ☃ 🧸",
        "\\n\\u0000",
        "%s",
    ],
)
def test_any_spec_survives_the_way_to_the_driver(odd):
    spec = Spec(data=DataSpec(source=f"s3://b/{odd}", classes=(odd, "x")))
    manifest = yaml.safe_load(manifest_yaml(render(job(spec, workers=3), settings())))
    there = travelled(manifest)
    assert there.data == spec.data
    assert there.digest == spec.digest == manifest["metadata"]["annotations"]["teddy-cloud/spec-digest"]
    assert (there.compute.executor, there.compute.workers, there.compute.device) == ("ray", 3, "auto")


def test_the_entrypoint_is_the_runs_address_and_nothing_else(many):
    for asked, given, manifest in many:
        words = shlex.split(manifest["spec"]["entrypoint"])
        assert words == ["teddy-cloud", "drive", f"{given.store.uri.rstrip('/')}/runs/{asked.run}"]
        # Two shells read it, so no character may mean anything to either.
        assert re.fullmatch(r"[A-Za-z0-9 ._/:@+=,-]+", manifest["spec"]["entrypoint"])


@pytest.mark.parametrize(
    "uri", ["s3://b/$(id)", "s3://b/a b", "s3://b/'x'", "s3://b/`x`", "s3://b/a;b", "s3://b/ä", "s3://b/a\n"]
)
def test_a_store_that_a_shell_would_read_otherwise_is_refused(uri):
    with pytest.raises(UserError, match=r"store\.uri"):
        run_uri(settings(store={"uri": uri}), "run")


def test_credentials_are_names_of_secrets_and_reach_head_and_workers_alone(monkeypatch):
    secret = "wJalrXUtnFEMI"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, secret)
    manifest = render(
        job(), settings(store={"uri": "s3://b", "secretName": "keys", "endpoint": "http://s3", "region": "r"})
    )
    for role, template in templates(manifest):
        from_secret = {n: v["secretKeyRef"] for n, v in env(template).items() if isinstance(v, dict)}
        if role == "submitter":
            assert from_secret == {}
            continue
        assert {(v["name"], v["key"]) for v in from_secret.values()} == {("keys", name) for name in from_secret}
        assert [name for name, v in from_secret.items() if v.get("optional")] == ["AWS_SESSION_TOKEN"]
        assert (env(template)["AWS_ENDPOINT_URL_S3"], env(template)["AWS_DEFAULT_REGION"]) == ("http://s3", "r")
    text = manifest_yaml(manifest)
    assert secret not in text
    assert base64.b64encode(secret.encode()).decode() not in text
    assert manifest["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "teddy-cloud-ray-token"}


def test_without_a_secret_the_service_accounts_identity_is_used():
    for _, template in templates(render(job(), settings())):
        assert not [name for name in env(template) if name.startswith("AWS_")]


def test_the_driver_is_told_what_a_slot_is():
    heads = [
        env(dict(templates(render(job(gpus=g, workers=w), settings())))["head"])["TEDDY_SLOT"]
        for g, w in ((2, 0), (0, 2))
    ]
    assert heads == ["GPU", "CPU"]


def test_rendering_changes_nothing_and_is_the_same_every_time():
    asked, given = job(gpus=16, workers=0, spot=True), settings()
    before = (asked.spec.to_json(), given.model_dump_json())
    first = render(asked, given)
    first["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"].clear()
    assert json.dumps(render(asked, given)) == json.dumps(render(asked, given)) != json.dumps(first)
    assert (asked.spec.to_json(), given.model_dump_json()) == before


# What is refused.


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"gpus": 0, "workers": 0}, "needs --workers"),
        ({"gpus": -1, "workers": 0}, "negative"),
        ({"gpus": 4, "workers": 3}, "--gpus 4 is 4 workers"),
    ],
)
def test_impossible_sizes_are_refused(asked, words):
    with pytest.raises(UserError, match=words):
        render(job(**asked), settings())


@pytest.mark.parametrize(
    ("asked", "overrides", "words"),
    [
        ({"gpus": 4}, {"compute.device": "cpu"}, "leave 4 GPUs idle"),
        ({"workers": 4}, {"compute.device": "cuda"}, "needs GPUs: give --gpus N"),
        ({"workers": 4}, {"compute.executor": "inline"}, "compute.executor = 'inline'"),
        ({"workers": 2}, {"base.replicas": 4}, "base.replicas = 4 is more than this run's 2 workers"),
        (
            {"workers": 2},
            {"base.checkpoint": "base.safetensors", "pool.kind": "post"},
            "base.checkpoint = 'base.safetensors'",
        ),
        (
            {"workers": 2},
            {"data.source": "folder:my/cats"},
            "aws s3 sync my/cats s3://BUCKET/DATA) and give --data folder:s3://",
        ),
        ({"workers": 2}, {"data.source": "train.parquet"}, "give --data s3://BUCKET/DATA"),
        ({"workers": 2}, {"data.source": "/data/x"}, "'/data/x' is on this machine"),
    ],
)
def test_what_no_cluster_can_do_is_refused(asked, overrides, words):
    spec = resolve("teddy", {}, overrides)
    with pytest.raises(UserError, match=re.escape(words)):
        render(Job(run="run", namespace="ml", spec=spec, **{"gpus": 0, "workers": 0, **asked}), settings())


@pytest.mark.parametrize(
    "source", ["digits", "cifar10", "cifar100", "s3://b/x", "folder:s3://b/x", "parquet:s3://b/x.parquet"]
)
def test_data_that_pods_can_read_is_taken(source):
    render(job(Spec(data=DataSpec(source=source))), settings())


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a-", "-a", "a.b", "a" * 48, "a\n"])
def test_names_that_kubernetes_refuses_are_refused(name):
    with pytest.raises(UserError, match="cannot name a RayJob"):
        render(Job(run=name, namespace="ml", spec=Spec(), gpus=0, workers=1), settings())


# Names.


def test_every_spec_has_a_name_that_kuberay_takes():
    choose = random.Random(3)
    sources = [
        "digits", "folder:my images", "s3://bucket/", "s3://b/2024-01", "///", "…", "-", "9", "a" * 200, "x--y",
        *("".join(choose.choices("aZ9-_/ .$é:", k=choose.randint(1, 60))) for _ in range(300)),
    ]  # fmt: skip
    for source in sources:
        for ipc, recipe in ((1, "teddy"), (10**9, "teddy-prior"), (50, "R" * 90), (50, "-")):
            spec = Spec(recipe=recipe, data=DataSpec(source=source), distill=DistillSpec(ipc=ipc))
            name = run_name(spec)
            assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name), (source, name)
            assert len(name) <= 47
            assert name.endswith(f"-{spec.digest[:8]}")
            assert f"-ipc{ipc}-" in name
            render(Job(run=name, namespace="ml", spec=Spec(), gpus=0, workers=1), settings())


def test_names_say_what_a_run_is():
    names = [
        run_name(Spec(recipe="teddy-prior", data=DataSpec(source=source)))
        for source in ("digits", "s3://b/tiny/", "10x")
    ]
    assert [name[:-9] for name in names] == [f"{source}-ipc1-teddy-prior" for source in ("digits", "tiny", "data-10x")]
