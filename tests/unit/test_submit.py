"""``submit``: what is sent is what a dry run prints, twice is once, and --wait ends as the run did."""

import json
import re
import subprocess
import sys

import fake_cluster
import pytest
import yaml

from teddy_cloud import app
from teddy_cloud.cluster import watch
from teddy_cloud.cluster.api import Cluster, ExistsError
from teddy_cloud.cluster.settings import Settings
from teddy_ray.errors import UserError, WorldError
from teddy_ray.spec import Spec
from teddy_ray.store import open_store

SETTINGS = {
    "store": {"uri": "s3://bucket/teddy"},
    "image": "image:1",
    "spec": {"distill.iterations": 7, "distill.ipc": 3},
    "job": {"queue": "gpus"},
}


class FakeCluster(fake_cluster.FakeCluster):
    """A namespace that keeps RayJobs, and answers in the order of ``answers`` when it is asked for one."""

    def __init__(self, **settings):
        super().__init__()
        self.values, self.jobs, self.answers, self.sent = {**SETTINGS, **settings}, {}, [], 0

    def settings(self):
        return Settings.validate_values(self.values, where="here")

    def create(self, manifest, *, dry_run=False):
        assert not dry_run
        self.sent += 1
        name = manifest["metadata"]["name"]
        if name in self.jobs:
            raise ExistsError(f"{name} already exists")
        self.jobs[name] = json.loads(json.dumps(manifest))
        return self.jobs[name]

    def get(self, run):
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if answer is not None and run in self.jobs:
            self.jobs[run]["status"] = answer
        return self.jobs.get(run)


def status(deployment, job="", **more):
    return {"jobDeploymentStatus": deployment, "jobStatus": job, **more}


@pytest.fixture(autouse=True)
def cluster(monkeypatch):
    fake = FakeCluster()
    monkeypatch.setattr(Cluster, "connect", classmethod(lambda *_: fake))
    monkeypatch.setattr(watch, "WATCH_SECONDS", 0.0)
    return fake


@pytest.fixture
def store(monkeypatch, tmp_path):
    """The namespace's store."""
    place = open_store(str(tmp_path / "store"))
    monkeypatch.setattr("teddy_ray.store.open_store", lambda _: place)
    return place


@pytest.fixture
def submit(monkeypatch, capsys, tmp_path):
    """Runs ``teddy-cloud submit``: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["teddy-cloud", "submit", *arguments])
        with pytest.raises(SystemExit) as stop:
            app.main()
        return stop.value.code or 0, *capsys.readouterr()

    return call


def spec_of(manifest):
    (head,) = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (text,) = [entry["value"] for entry in head["env"] if entry["name"] == "TEDDY_SPEC"]
    return Spec.from_json(text.replace("$$", "$"))


def the_only(cluster):
    (manifest,) = cluster.jobs.values()
    return manifest


# What is sent.


def test_the_one_liner_sends_a_job_and_says_what_next(submit, cluster):
    code, out, err = submit("--ipc", "100", "--gpus", "16")
    assert (code, err) == (0, "")
    (run,) = cluster.jobs
    assert f"Submitted {run} to namespace ml" in out
    assert "1,000 images of 10 classes, in 20 units" in out
    assert f"s3://bucket/teddy/runs/{run}" in out
    for command in (f"status {run} --watch", f"logs {run} -f", f"pull {run} {run}", f"cancel {run}"):
        assert f"teddy-cloud {command}\n" in out
    (group,) = the_only(cluster)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["rayStartParams"]["num-gpus"]) == (2, "8")


def test_a_dry_run_prints_what_would_be_sent_and_sends_nothing(submit, cluster):
    asked = ("--ipc", "2", "--workers", "3", "--set", "data.classes=['$(HOME)','b']", "--spot", "--max-hours", "2")
    code, out, _ = submit(*asked, "--dry-run")
    assert (code, cluster.sent) == (0, 0)
    as_json = json.loads(submit(*asked, "--dry-run", "--json")[1])
    submit(*asked)
    assert yaml.safe_load(out) == as_json == the_only(cluster)


def test_the_namespaces_settings_come_after_the_recipe_and_before_the_users_own(submit, cluster, tmp_path):
    (tmp_path / "my.toml").write_text("[distill]\nipc = 4\n[pool]\nsize = 6\n")
    submit("--workers", "1", "--spec", "my.toml", "--set", "pool.size=7")
    spec = spec_of(the_only(cluster))
    assert (spec.recipe, spec.distill.iterations, spec.distill.ipc, spec.pool.size) == ("teddy", 7, 4, 7)
    assert (spec.compute.executor, spec.compute.workers) == ("ray", 1)


def test_flags_stand_in_for_the_namespaces_settings(submit, cluster):
    submit(
        "--gpus", "8", "--gpus-per-node", "4", "--gpu-type", "H100", "--image", "mine@sha256:1", "--max-hours", "0.5",
        "--queue-timeout", "10m", "--queue", "", "--priority", "high", "--retries", "0",
    )  # fmt: skip
    manifest = the_only(cluster)
    spec, (group,) = manifest["spec"], manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (spec["activeDeadlineSeconds"], spec["preRunningDeadlineSeconds"], spec["backoffLimit"]) == (1800, 600, 0)
    pod = group["template"]["spec"]
    assert (group["replicas"], pod["nodeSelector"]) == (2, {"nvidia.com/gpu.product": "H100"})
    assert (pod["containers"][0]["image"], pod["priorityClassName"]) == ("mine@sha256:1", "high")
    assert not [label for label in manifest["metadata"]["labels"] if "kueue" in label]


def test_json_has_what_scripts_need(submit, cluster):
    told = json.loads(submit("--workers", "2", "--json")[1])
    (run,) = cluster.jobs
    assert (told["run"], told["namespace"], told["created"], told["state"]) == (run, "ml", True, "submitted")
    assert (told["gpus"], told["workers"], told["store"]) == (0, 2, f"s3://bucket/teddy/runs/{run}")
    assert told["digest"][:8] == run[-8:]
    assert told["makes"]["images"] == 30


def test_data_that_is_not_known_is_summarised_without_a_look_at_it(submit):
    _, out, _ = submit("--workers", "2", "--data", "s3://bucket/cats/")
    assert "3 images a class, of as many classes as s3://bucket/cats/ has" in out
    assert (
        "makes   6 images of 2 classes"
        in submit("--workers", "2", "--data", "s3://bucket/cats/", "--classes", "a,b")[1]
    )
    assert "in 1 unit, fewer than the 16 workers" in submit("--gpus", "16")[1]


SENDING = """
import importlib, sys, types
from teddy_cloud import app
from teddy_cloud.cluster.settings import Settings
sent = []
importlib.import_module("teddy_cloud.submit").find_cluster = lambda *_: types.SimpleNamespace(
    namespace="ml",
    create=sent.append,
    settings=lambda: Settings.model_validate({"store": {"uri": "s3://b"}, "image": "i"}),
)
sys.argv = ["teddy-cloud", "submit", "--gpus", "16"]
try: app.main()
except SystemExit as stop: assert not stop.code
assert sent
print([m for m in ("torch", "ray", "boto3", "pyarrow", "numpy") if m in sys.modules], file=sys.stderr)
"""


def test_nothing_heavy_is_imported():
    done = subprocess.run([sys.executable, "-c", SENDING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")


# Twice.


@pytest.mark.parametrize(
    ("there", "word"),
    [
        ({}, "queued"),
        (status("Initializing"), "queued"),
        (status("Running", "RUNNING"), "running"),
        (status("Retrying"), "retrying"),
        (status("Complete", "SUCCEEDED"), "finished"),
    ],
)
def test_the_same_spec_again_finds_the_run_and_leaves_it(submit, cluster, there, word):
    submit("--workers", "2")
    (run,) = cluster.jobs
    before = the_only(cluster)
    before["spec"]["suspend"] = word == "queued"
    cluster.answers = [there]
    code, out, _ = submit("--workers", "2")
    assert (code, list(cluster.jobs), the_only(cluster)["spec"]) == (0, [run], before["spec"])
    assert f"{run} is in namespace ml already, and {word}: nothing was sent" in out
    assert f"teddy-cloud status {run} --watch" in out
    cluster.answers = [there]
    told = json.loads(submit("--workers", "2", "--json")[1])
    assert (told["created"], told["state"]) == (False, word)


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (status("Failed", "FAILED", reason="DeadlineExceeded"), "failed (DeadlineExceeded): `teddy-cloud resume RUN`"),
        (status("Complete", "STOPPED"), "cancelled: `teddy-cloud resume RUN`"),
        (status("ValidationFailed", message="bad field"), "(bad field): `teddy-cloud delete RUN`"),
        (status("Suspended"), "`teddy-cloud resume RUN`"),
    ],
)
def test_a_run_that_ended_otherwise_is_for_resume(submit, cluster, there, words):
    cluster.values["job"] = {}
    submit("--workers", "2")
    (run,) = cluster.jobs
    cluster.answers = [there]
    code, out, err = submit("--workers", "2")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words.replace("RUN", run) in err


def test_a_run_that_is_being_deleted_is_not_taken_for_one_that_runs(submit, cluster):
    submit("--workers", "2")
    the_only(cluster)["metadata"]["deletionTimestamp"] = "2026-11-21T00:00:00Z"
    code, _, err = submit("--workers", "2")
    assert code == 2
    assert "just being deleted" in err


# What is refused before anything is sent.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--gpus 16 (or"),
        (("--gpus", "0"), "--gpus 0 needs --workers N"),
        (("--gpus", "-1"), "cannot be negative"),
        (("--gpus", "4", "--workers", "2"), "--gpus 4 is 4 workers"),
        (("--gpus", "4", "--gpus-per-node", "0"), "--gpus-per-node 0: "),
        (("--gpus", "4", "--max-hours", "0"), "--max-hours 0.0: "),
        (("--gpus", "4", "--queue-timeout", "soon"), "--queue-timeout soon"),
        (("--gpus", "4", "--retries", "-1"), "--retries -1: "),
        (("--gpus", "4", "--image", ""), "--image : "),
        (("--gpus", "4", "--data", "folder:pictures"), "data.source = 'folder:pictures' is on this machine"),
        (("--gpus", "4", "--device", "cpu"), "compute.device = 'cpu'"),
        (("--gpus", "4", "--set", "distill.ipcs=1"), "unknown setting 'distill.ipcs'"),
        (("--gpus", "4", "--set", "base.replicas=8"), "base.replicas = 8"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--json",)])
def test_what_is_impossible_is_refused_in_one_line_and_nothing_is_sent(submit, cluster, arguments, words, more):
    code, out, err = submit(*arguments, *more)
    assert (code, out, err.count("\n"), cluster.sent) == (2, "", 1, 0)
    assert words in err


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("you may not create rayjobs"), 2), (WorldError("no answer"), 1)]
)
def test_the_clusters_refusals_are_told(submit, cluster, error, code):
    def create(*_, **__):
        raise error

    cluster.create = create
    assert submit("--workers", "1") == (code, "", f"error: {error}\n")


# Waiting.


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (status("Complete", "SUCCEEDED"), 0),
        (status("Failed", "FAILED", reason="AppFailed", message="it broke"), 1),
        (status("ValidationFailed", message="bad"), 2),
        (status("Complete", "STOPPED"), 130),
    ],
)
def test_wait_exits_with_the_runs_result_and_tells_of_each_change_once(submit, cluster, store, end, code):
    assert not list(store.list(""))
    cluster.values["job"] = {}
    going = status("Running", "RUNNING")
    cluster.answers = [
        status("Initializing"),
        status("Initializing"),
        going,
        WorldError("no answer"),
        going,
        status("Retrying", failed=1),
        going | {"failed": 1},
        end,
    ]
    found, out, err = submit("--workers", "2", "--wait")
    assert found == code
    assert "Submitted" in out
    (run,) = cluster.jobs
    said = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in err.splitlines()]
    assert said[:4] == [f"{run}: provisioning", f"{run}: running", "still waiting: no answer", f"{run}: running"]
    assert said[4:6] == [f"{run}: retrying, attempt 2 of 4", f"{run}: running, attempt 2 of 4"]
    told = {0: "finished", 1: "the run itself ended with an error", 2: "refuses the RayJob: bad", 130: "cancelled"}
    assert told[code] in " ".join(said[6:])


def test_wait_believes_the_stores_manifest_rather_than_the_cluster(submit, cluster, store, made_up):
    run = json.loads(submit("--workers", "2", "--json")[1])["run"]
    made_up.finished(run)
    assert store.head(f"runs/{run}/manifest.json")
    end = status("Failed", "FAILED", reason="SubmissionFailed")
    cluster.answers = [status("Running", "RUNNING"), end, end]
    code, out, err = submit("--workers", "2", "--wait", "--json")
    assert (code, json.loads(out)["state"]) == (0, "finished")
    assert "the store has the run's manifest" in err


def test_wait_says_when_the_store_cannot_be_asked(submit, cluster, monkeypatch):
    def refuse(_):
        raise UserError("no credentials")

    monkeypatch.setattr("teddy_ray.store.open_store", refuse)
    cluster.answers = [status("Failed", "FAILED")]
    code, _, err = submit("--workers", "2", "--wait")
    assert code == 1
    assert "no credentials" in err


def test_waiting_gives_up_where_the_cluster_stays_out_of_reach(submit, cluster, monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", 0.0)
    cluster.answers = [WorldError("the API cannot be reached")] * 3
    code, _, err = submit("--workers", "2", "--wait")
    assert code == 1
    assert "error: the API cannot be reached" in err


def test_ctrl_c_ends_the_waiting_and_not_the_run(submit, cluster):
    def get(_):
        raise KeyboardInterrupt

    cluster.get = get
    code, _, err = submit("--workers", "2", "--wait")
    (run,) = cluster.jobs
    assert code == 130
    assert f"no longer waiting; {run} goes on: teddy-cloud status {run}" in err
