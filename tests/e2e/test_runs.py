"""From `helm install` to pulled bytes, as a user goes, who has no rights but the chart's."""

import json
import os
import subprocess
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest
from on_cluster import COMMAND, PUBLIC_ENDPOINT, ROOT, SMALL, run, settings_of, until

pytestmark = pytest.mark.timeout(1800)
DIGITS = {**SMALL, "distill.ipc": 4}
TINY = ROOT.parent / "shared" / "data" / "tiny-imagenet-200"


@pytest.fixture(scope="module")
def digits(ml):
    """A run on the digits with two workers, finished; and what `logs -f` showed meanwhile."""
    name = ml.submit(DIGITS)
    follow = [COMMAND, "logs", name, "-f", "--namespace", ml.name]
    environment = {**os.environ, "KUBECONFIG": str(ml.kubeconfig)}
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True, env=environment) as following:
        ml.wait(name, "finished")
        said, _ = following.communicate(timeout=120)
    assert following.returncode == 0
    return name, said


def test_doctor_finds_everything_in_place(ml):
    done = ml.teddy_cloud("doctor", "--json")
    checks = json.loads(done.stdout)
    assert {check["level"] for check in checks} <= {"ok", "warn"}
    assert len(checks) >= 6


def test_plan_creates_nothing(ml):
    done = ml.teddy_cloud("plan", *settings_of(DIGITS), "--gpus", "16", "--json")
    assert json.loads(done.stdout)["makes"]["images"] == 16
    assert json.loads(ml.kubectl("get", "rayjobs", "-o", "json").stdout)["items"] == []


def test_logs_are_followed_to_the_end(digits):
    _, said = digits
    for stage in ("data", "base", "pool", "distill", "relabel", "evaluate", "report"):
        assert f"{stage} done in" in said


def test_status_shows_every_stage_done(ml, digits):
    seen = ml.status(digits[0])
    assert seen["state"] == "finished"
    assert [stage["share"] for stage in seen["stages"]] == [1.0] * 7


def test_list_has_the_run_with_its_score(ml, digits):
    (row,) = [row for row in json.loads(ml.teddy_cloud("list", "--json").stdout) if row["run"] == digits[0]]
    assert row["state"] == "finished"
    assert row["best"]["control"] in ("random", "coreset")


def test_the_pulled_bytes_are_those_of_a_run_on_this_machine(ml, digits, local_results):
    assert ml.pull(digits[0])["digests"] == local_results(DIGITS)["digests"]


def test_kubectl_sees_what_its_users_expect(ml, digits):
    ml.kubectl("wait", "rayjob", digits[0], "--for=jsonpath={.status.jobStatus}=SUCCEEDED", "--timeout=120s")
    ml.kubectl("wait", "rayjob", digits[0], "--for=jsonpath={.status.jobDeploymentStatus}=Complete", "--timeout=120s")


def test_the_same_spec_again_finds_the_run(ml, digits):
    done = ml.teddy_cloud("submit", *settings_of(DIGITS), "--gpus", "0", "--workers", "2")
    assert digits[0] in done.stdout
    assert len(json.loads(ml.kubectl("get", "rayjobs", "-o", "json").stdout)["items"]) == 1


def test_kubectl_apply_does_what_submit_does(ml, local_results):
    """A dry run's YAML carries the run, spec and all."""
    spec = {**DIGITS, "seed": 1, "evaluate.controls": []}
    sent = ml.teddy_cloud("submit", *settings_of(spec), "--gpus", "0", "--workers", "1", "--dry-run").stdout
    name = ml.kubectl("apply", "-f", "-", "-o", "jsonpath={.metadata.name}", given=sent).stdout
    ml.wait(name, "finished")
    assert ml.pull(name)["digests"] == local_results(spec)["digests"]


@pytest.mark.skipif(not TINY.is_dir(), reason="Tiny-ImageNet is not beside this checkout")
def test_ten_classes_of_tiny_imagenet_from_the_bucket(ml, tmp_path, local_results):
    """The data are in S3, as Parquet: forty images of each of ten classes."""
    bucket, _, prefix = f"{ml.store}-data/tiny".removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=PUBLIC_ENDPOINT or None)
    for split, file in (("train", "train-00000-of-00004.parquet"), ("val", "val-00000-of-00001.parquet")):
        part = tmp_path / f"{split}-00000-of-00001.parquet"
        pq.write_table(first_classes(TINY / file, classes=10, per_class=40), part)
        client.upload_file(str(part), bucket, f"{prefix}/{part.name}")
    spec = {**DIGITS, "data.source": f"s3://{bucket}/{prefix}", "data.classes": 10, "distill.ipc": 1}
    name = ml.submit(spec)
    ml.wait(name, "finished")
    pulled = ml.pull(name)
    assert len(pulled["dataset"]["class_names"]) == 10
    assert pulled["digests"] == local_results(spec)["digests"]


def first_classes(path: Path, *, classes: int, per_class: int):
    """Rows of the first classes, with the schema's metadata, in which are the names."""
    table = pq.read_table(path)
    labels = table.column("label").to_pylist()
    rows = [
        row for class_ in range(classes) for row in [i for i, label in enumerate(labels) if label == class_][:per_class]
    ]
    return table.take(rows)


def test_uninstalling_leaves_nothing_but_the_store(ml):
    """The last of this module: helm takes all that it brought."""
    ml.kubectl("delete", "rayjobs", "--all", "--timeout=180s")
    run("helm", "uninstall", "teddy", "-n", ml.name, "--wait")
    until(lambda: not json.loads(ml.kubectl("get", "pods", "-o", "json").stdout)["items"])
    kinds = "configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,pods,jobs,rayclusters,rayjobs,pdb"
    left = ml.kubectl("get", kinds, "-o", "name").stdout.split()
    ours = {"configmap/kube-root-ca.crt", "serviceaccount/default", "serviceaccount/ada", "secret/teddy-cloud-s3"}
    assert set(left) == ours
