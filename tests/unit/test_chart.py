"""The chart: its values are the command's settings, a misspelt one is refused, and what it renders hangs together.

What needs the helm program is skipped where it is not installed.
"""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from teddy_cloud.cluster.settings import CONFIG_KEY, CONFIG_MAP, TOKEN_SECRET, Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "teddy-cloud"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
MINIMAL, FULL = (yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text()) for name in ("minimal", "full"))
METRICS = {
    "ray_teddy_stage_done_tasks", "ray_teddy_stage_total_tasks", "ray_teddy_stage_share", "ray_teddy_images_per_second",
    "ray_teddy_store_bytes_total", "ray_teddy_store_retries_total",
}  # fmt: skip

needs_helm = pytest.mark.skipif(not shutil.which("helm"), reason="the program helm is not installed")


def merged(base, changes):
    """As helm lays values over the chart's own."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{key: merged(base.get(key), value) for key, value in changes.items()}}


def refusal(values):
    """Where the schema refuses these values, if it does."""
    error = jsonschema.Draft7Validator(SCHEMA).iter_errors(merged(VALUES, values))
    return {(".".join(map(str, found.path)), found.message) for found in error}


def plain(schema, definitions):
    """A part of a schema without names, descriptions, defaults and references, and with one way to say 'or null'."""
    if "$ref" in schema:
        return plain(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        value, _null = schema["anyOf"]
        return {**plain(value, definitions), "type": [value["type"], "null"]}
    schema = {key: value for key, value in schema.items() if key not in {"title", "description", "default"}}
    for key in {"items", "additionalProperties"} & set(schema):
        if isinstance(schema[key], dict):
            schema[key] = plain(schema[key], definitions)
    if "properties" in schema:
        schema["properties"] = {key: plain(value, definitions) for key, value in schema["properties"].items()}
    return schema


def test_the_values_are_the_settings_under_the_same_rules():
    settings = Settings.model_json_schema(by_alias=True)
    theirs = {key: plain(value, settings["$defs"]) for key, value in settings["properties"].items()}
    ours = {key: plain(SCHEMA["properties"][key], SCHEMA["definitions"]) for key in theirs}
    # The account has more to say here; and a nested spec is refused at once, since its keys are dotted names.
    for key in ("serviceAccount", "spec"):
        del theirs[key], ours[key]
    assert ours == theirs
    assert set(SCHEMA["required"]) == set(settings["required"])


def test_the_defaults_are_those_of_the_settings():
    values = {key: VALUES[key] for key in Settings.model_json_schema(by_alias=True)["properties"]}
    values = merged(values, MINIMAL) | {"serviceAccount": VALUES["serviceAccount"]["name"]}
    assert Settings.validate_values(values, where="values.yaml") == Settings.validate_values(MINIMAL, where="minimal")


def objects_in(schema, path=""):
    """Every part of the schema that takes a mapping."""
    if schema.get("type") == "object":
        yield path, schema
    parts = {**schema.get("properties", {}), **schema.get("definitions", {})}
    if "items" in schema:
        parts["*"] = schema["items"]
    for key, part in parts.items():
        yield from objects_in(part, f"{path}.{key}".lstrip("."))


def test_every_mapping_is_strict_or_has_values_of_one_kind():
    open_ones = {path for path, schema in objects_in(SCHEMA) if schema.get("additionalProperties", True) is True}
    # Kubernetes' own: a label selector, a limit; the API server checks them.
    assert open_ones == {"global", "limitRange.limits.*", "peer.namespaceSelector", "peer.podSelector"}


def test_schema_and_values_have_the_same_keys():
    def keys(schema, values, path=""):
        if schema.get("additionalProperties") is not False:
            return set()
        names = set(schema["properties"]) - {"global"}
        assert names == set(values), path
        return {key for name in names for key in keys(schema["properties"][name], values[name], name)}

    keys(SCHEMA, VALUES)


@pytest.mark.parametrize("values", [MINIMAL, FULL], ids=["minimal", "full"])
def test_examples_are_accepted(values):
    assert not refusal(values)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"stroe": {}}, "stroe"),
        ({"worker": {"gpus": 4}}, "gpus"),
        ({"worker": {"gpusPerNode": 0}}, "worker.gpusPerNode"),
        ({"worker": {"memory": "16 GB"}}, "worker.memory"),
        ({"store": {"uri": "gs://bucket"}}, "store.uri"),
        ({"image": ""}, "image"),
        ({"imagePullPolicy": "always"}, "imagePullPolicy"),
        ({"job": {"maxHours": 0}}, "job.maxHours"),
        ({"job": {"queueTimeoutMinutes": "1h"}}, "job.queueTimeoutMinutes"),
        ({"spec": {"distill": {"iterations": 5}}}, "spec.distill"),
        ({"networkPolicy": {"store": {"cidr": "10.0.0.0/8"}}}, "cidr"),
        ({"networkPolicy": {"store": {"to": [{"ipblock": {}}]}}}, "ipblock"),
        ({"networkPolicy": {"operator": {"podLabels": None}}}, "podLabels"),
        ({"users": {"groups": "researchers"}}, "users.groups"),
        ({"head": {"tolerations": [{"key": "a", "efect": "NoSchedule"}]}}, "efect"),
    ],
)
def test_a_wrong_value_is_refused_by_name(change, where):
    found = refusal(merged(MINIMAL, change))
    assert found
    assert any(where in path or where in message for path, message in found)


def test_the_readme_has_the_values_table():
    spec = importlib.util.spec_from_file_location("readme", ROOT / "helm" / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text = (CHART / "README.md").read_text()
    assert readme.readme(text, (CHART / "values.yaml").read_text()) == text, "run: python helm/readme.py"
    described = {key for key, _ in readme.described((CHART / "values.yaml").read_text())}

    def leaves(schema, path):
        if schema.get("additionalProperties") is not False:
            return {path}
        return {leaf for key, part in schema["properties"].items() for leaf in leaves(part, f"{path}.{key}".strip("."))}

    assert described == leaves(SCHEMA, "") - {"global"}


def test_the_dashboard_uses_our_metrics_and_no_others():
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [item["query"]["query"] for item in dashboard["templating"]["list"] if isinstance(item["query"], dict)]
    assert set(re.findall(r"ray_\w+", " ".join(asked))) == METRICS
    panels = [panel["gridPos"] for panel in dashboard["panels"]]
    squares = [
        (x, y) for at in panels for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(squares) == len(set(squares)), "panels overlap"


def helm(*arguments, values):
    # A helm that was built without saying so thinks of a Kubernetes of long ago.
    command = ["helm", *arguments, "--values", "-", "--kube-version", "1.34.0"]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=60)


def rendered(values, *more):
    """What the chart makes of values: kind and name to object."""
    done = helm("template", "teddy", str(CHART), "--namespace", "ml", *more, values=values)
    assert done.returncode == 0, done.stderr
    found = [thing for thing in yaml.safe_load_all(done.stdout) if thing]
    objects = {(thing["kind"], thing["metadata"]["name"]): thing for thing in found}
    assert len(objects) == len(found), "two objects with one name"
    return objects


def settings(values):
    config = rendered(values)["ConfigMap", CONFIG_MAP]
    return Settings.validate_values(json.loads(config["data"][CONFIG_KEY]), where="ConfigMap")


@needs_helm
@pytest.mark.parametrize("values", [MINIMAL, FULL], ids=["minimal", "full"])
def test_helm_finds_nothing_to_complain_of(values):
    done = helm("lint", "--strict", str(CHART), values=values)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
def test_helm_refuses_a_misspelt_value():
    done = helm("template", "teddy", str(CHART), values=merged(MINIMAL, {"networkpolicy": {"enabled": False}}))
    assert done.returncode != 0
    assert "networkpolicy" in done.stderr


@needs_helm
def test_the_least_gives_what_a_plain_cluster_takes():
    objects = rendered(MINIMAL)
    assert {kind for kind, _ in objects} == {
        "ConfigMap", "Secret", "ServiceAccount", "Role", "NetworkPolicy", "PodDisruptionBudget", "Pod",
    }  # fmt: skip
    assert settings(MINIMAL) == Settings.validate_values(MINIMAL, where="minimal")


@needs_helm
def test_everything_on():
    objects = rendered(FULL)
    kinds = {kind for kind, _ in objects}
    assert {"ResourceQuota", "LimitRange", "PriorityClass", "LocalQueue", "PodMonitor", "RoleBinding"} <= kinds
    assert {"ClusterRole", "ClusterRoleBinding"} <= kinds
    found = settings(FULL)
    assert found.service_account == "distiller"
    assert found.spec == FULL["spec"]
    assert found.worker.tolerations[0].key == "nvidia.com/gpu"
    assert found.job.queue == "teddy-cloud"  # the LocalQueue that is made
    assert found.job.priority == ""  # with a queue it would be a WorkloadPriorityClass
    subjects = objects["RoleBinding", "teddy-cloud-users"]["subjects"]
    assert [subject["name"] for subject in subjects] == ["ada@example.com", "researchers", "ci"]


@needs_helm
@pytest.mark.parametrize("values", [MINIMAL, FULL], ids=["minimal", "full"])
def test_every_object_is_labelled_and_in_the_namespace(values):
    for (kind, name), thing in rendered(values).items():
        labels = thing["metadata"]["labels"]
        wanted = {"name": "teddy-cloud", "instance": "teddy", "managed-by": "Helm", "version": "0.1.0"}
        assert wanted.items() <= {key.rpartition("/")[2]: value for key, value in labels.items()}.items(), (kind, name)
        assert labels["app.kubernetes.io/component"]
        cluster_wide = kind in {"ClusterRole", "ClusterRoleBinding", "PriorityClass"}
        assert thing["metadata"].get("namespace") == (None if cluster_wide else "ml"), (kind, name)


@needs_helm
def test_the_workload_has_no_rights_and_no_token():
    objects = rendered(FULL)
    account = objects["ServiceAccount", "distiller"]
    assert account["automountServiceAccountToken"] is False
    bound = [subject for thing in objects.values() for subject in thing.get("subjects", [])]
    assert bound
    assert "distiller" not in {subject["name"] for subject in bound}


@needs_helm
def test_users_read_one_secret_and_one_config_map():
    rules = rendered(MINIMAL)["Role", "teddy-cloud-users"]["rules"]
    by_resource = {resource: rule for rule in rules for resource in rule["resources"]}
    assert by_resource["secrets"] == {
        "apiGroups": [""], "resources": ["secrets"], "resourceNames": [TOKEN_SECRET], "verbs": ["get"],
    }  # fmt: skip
    assert by_resource["configmaps"]["resourceNames"] == [CONFIG_MAP]
    assert by_resource["configmaps"]["verbs"] == ["get"]
    assert not [rule for rule in rules if "*" in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}]


@needs_helm
def test_the_token_is_random_and_can_be_ones_own():
    tokens = {rendered(MINIMAL)["Secret", TOKEN_SECRET]["data"]["auth_token"] for _ in range(2)}
    assert len(tokens) == 2
    assert ("Secret", TOKEN_SECRET) not in rendered(merged(MINIMAL, {"token": {"create": False}}))


@needs_helm
@pytest.mark.parametrize(
    ("store", "port"),
    [
        ({}, 443),
        ({"endpoint": "https://s3.example.com"}, 443),
        ({"endpoint": "http://s3.storage.svc"}, 80),
        ({"endpoint": "http://s3.storage.svc:9000"}, 9000),
        ({"endpoint": "https://[fd00::1]:8443"}, 8443),
    ],
)
def test_the_way_to_the_store_is_its_endpoints_port(store, port):
    policy = rendered(merged(MINIMAL, {"store": store}))["NetworkPolicy", "teddy-cloud-out"]
    assert policy["spec"]["egress"][1] == {"ports": [{"protocol": "TCP", "port": port}]}


@needs_helm
def test_policies_cover_every_pod_of_a_run_and_the_test():
    objects = rendered(FULL)
    deny = objects["NetworkPolicy", "teddy-cloud-deny"]["spec"]
    assert deny == {
        "podSelector": {"matchExpressions": [{"key": "teddy-cloud/role", "operator": "Exists"}]},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert objects["Pod", "teddy-cloud-test-store"]["metadata"]["labels"]["teddy-cloud/role"] == "test"
    off = rendered(merged(FULL, {"networkPolicy": {"enabled": False}}))
    assert "NetworkPolicy" not in {kind for kind, _ in off}


@needs_helm
def test_a_priority_class_is_the_default_of_runs_without_a_queue():
    created = merged(MINIMAL, {"priorityClass": {"create": True}})
    assert settings(created).job.priority == "teddy-cloud-ml"
    assert settings(merged(created, {"job": {"queue": "batch"}})).job.priority == ""
    assert settings(merged(created, {"job": {"priority": "urgent"}})).job.priority == "urgent"


@needs_helm
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"podMonitor": {"enabled": True}}, "networkPolicy.metrics.from"),
        ({"kueue": {"localQueue": {"create": True}}}, "kueue.localQueue.clusterQueue"),
        ({"resourceQuota": {"enabled": True}}, "resourceQuota.hard"),
        ({"limitRange": {"enabled": True}}, "limitRange.limits"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(change, said):
    done = helm("template", "teddy", str(CHART), values=merged(MINIMAL, change))
    assert done.returncode != 0
    assert said in done.stderr


@needs_helm
def test_the_test_pod_passes_the_restricted_standard():
    spec = rendered(FULL)["Pod", "teddy-cloud-test-store"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert not [item for item in container["env"] if "SECRET" in item["name"] and "value" in item]
