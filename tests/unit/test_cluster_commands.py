"""The commands on a cluster's runs, on a cluster in memory and a store in a folder."""

import json
import sys
import time

import fake_cluster
import pytest

from teddy_cloud import app, control
from teddy_cloud.cluster import driver_log, forward, watch
from teddy_cloud.cluster.api import Cluster
from teddy_cloud.cluster.checks import kuberay
from teddy_cloud.stores import Place
from teddy_ray.errors import UserError, WorldError

RUNNING = {"rayClusterName": "a-x1y2z", "jobId": "a-j0b", "rayClusterStatus": {"head": {"podName": "a-x1y2z-head"}}}
SETTINGS = {"store": {"uri": "s3://nowhere/runs"}, "image": "i:1"}


@pytest.fixture
def cluster(monkeypatch):
    made = fake_cluster.FakeCluster(SETTINGS)
    monkeypatch.setattr(Cluster, "connect", classmethod(lambda *_: made))
    return made


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    """Time passes, and nobody waits; whoever waits forever is found out."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        assert len(slept) < 1000, "waits forever"

    monkeypatch.setattr(time, "sleep", sleep)
    return slept


@pytest.fixture
def tc(monkeypatch, capfd, made_up, tmp_path, cluster):  # noqa: ARG001
    """``teddy-cloud`` on the namespace ml, whose store is the made-up one."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.toml"
    config.write_text(f'namespace = "ml"\nstore = "{made_up.store.root}"\n')
    monkeypatch.setenv("TEDDY_CLOUD_CONFIG", str(config))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["teddy-cloud", *arguments])
        with pytest.raises(SystemExit) as stop:
            app.main()
        return stop.value.code or 0, *capfd.readouterr()

    return call


# Looking.


def test_a_status_shows_stages_workers_attempts_and_why(tc, cluster, made_up):
    made_up.spec("a")
    made_up.events("a", {"kind": "stage_started", "done": 1, "total": 4, "time": time.time()})
    status = RUNNING | {"failed": 1, "rayClusterStatus": {"desiredWorkerReplicas": 2}}
    cluster.put_rayjob("a", "Running", "RUNNING", spec={"backoffLimit": 3}, **status)
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no nodes"}
    cluster.put_pod("a-x1y2z-w-1", "a", "worker", conditions=[{"type": "Ready", "status": "True"}])
    cluster.put_pod("a-x1y2z-w-2", "a", "worker", phase="Pending", conditions=[condition])
    code, out, _ = tc("status", "a")
    assert (code, out.splitlines()[0]) == (0, "a  running")
    for words in (
        "1 of 2 workers ready; Ray cluster 2 of at most 4",
        "distill",
        "worker pod: no node takes it: no nodes",
    ):
        assert words in out
    said = json.loads(tc("status", "a", "--json")[1])
    assert (said["state"], said["stages"][3]["total"]) == ("running", 4)
    assert said["cluster"]["workers"] == {"ready": 1, "desired": 2}
    assert (said["cluster"]["attempt"], said["cluster"]["attempts"]) == (2, 4)


def test_a_status_of_a_run_that_the_store_does_not_know_yet(tc, cluster):
    cluster.put_rayjob("a", "Initializing")
    assert tc("status", "a")[1].splitlines()[0] == "a  provisioning"


def test_where_cluster_and_store_disagree_both_are_shown(tc, cluster, made_up):
    made_up.finished("a")
    cluster.put_rayjob("a", "Failed", "FAILED", reason="SubmissionFailed")
    _, out, _ = tc("status", "a")
    assert out.splitlines()[0] == "a  finished"
    assert "the store has the run's manifest, so it is finished; the cluster says Failed FAILED" in out


def test_a_failed_run_says_so_in_its_own_words_and_how_to_go_on(tc, cluster, made_up):
    made_up.spec("a")
    made_up.events("a", {"kind": "ended", "outcome": "failed", "message": "the bucket is full"})
    cluster.put_rayjob("a", "Failed", "FAILED", reason="AppFailed", message="exit code 1")
    _, out, _ = tc("status", "a")
    assert "the bucket is full" in out
    assert "go on with: teddy-cloud resume a" in out


def test_what_to_do_next_is_said_with_the_namespace_that_was_typed(tc, cluster, made_up):
    made_up.spec("a")
    cluster.put_rayjob("a", "Suspended")
    assert "go on with: teddy-cloud resume a\n" in tc("status", "a")[1]
    assert "go on with: teddy-cloud resume a --namespace 'm l'\n" in tc("status", "a", "-n", "m l")[1]


def test_watching_outlives_a_cluster_that_is_out_of_reach_for_a_while(tc, cluster, made_up, monkeypatch):
    made_up.finished("a")
    cluster.put_rayjob("a", "Complete", "SUCCEEDED")
    answers, real = iter([WorldError("the API is away"), WorldError("the API is away")]), watch.look

    def look(*args, **options):
        for error in answers:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(watch, "look", look)
    monkeypatch.setattr("teddy_cloud.status.WATCH_SECONDS", 0)
    code, out, err = tc("status", "a", "--watch")
    assert (code, out.splitlines()[0]) == (0, "a  finished")
    assert err.count("still waiting: the API is away\n") == 2
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", 0)
    answers = iter([WorldError("the API is away")] * 3)
    code, _, err = tc("status", "a", "--watch")
    assert (code, err) == (1, "error: the API is away\n")


def test_a_list_has_the_runs_of_both(tc, cluster, made_up):
    made_up.finished("a")
    made_up.spec("b")
    cluster.put_rayjob("b", "Complete", "STOPPED")
    carried = {"recipe": "teddy", "data": {"source": "di$its"}, "distill": {"ipc": 7}}
    environment = [{"name": "TEDDY_SPEC", "value": json.dumps(carried).replace("$", "$$")}]
    head = {"template": {"spec": {"containers": [{"env": environment}]}}}
    cluster.put_rayjob("c", "Initializing", spec={"rayClusterSpec": {"headGroupSpec": head}})
    found = {run["run"]: run for run in json.loads(tc("list", "--json")[1])}
    assert {name: run["state"] for name, run in found.items()} == {
        "a": "finished",
        "b": "cancelled",
        "c": "provisioning",
    }
    assert (found["c"]["dataset"], found["c"]["ipc"]) == ("di$its", 7)
    assert [run["run"] for run in json.loads(tc("list", "--json", "--state", "provisioning")[1])] == ["c"]
    assert "b" in tc("list")[1]


def test_a_store_out_of_reach_is_said_and_the_clusters_word_counts(tc, cluster, tmp_path, monkeypatch):
    (tmp_path / "config.toml").write_text('namespace = "ml"\n')
    monkeypatch.setattr("teddy_cloud.stores.opened", lambda *_: (_ for _ in ()).throw(WorldError("no network")))
    cluster.put_rayjob("a", "Complete", "SUCCEEDED")
    code, out, _ = tc("status", "a")
    assert (code, out.splitlines()[0]) == (0, "a  finished")
    assert "the store cannot be read from here, so the cluster's word counts: no network" in out
    assert "no network" in tc("list")[2]


# Logs.


def test_logs_are_the_submitters_while_it_lives_and_then_the_stores(tc, cluster, made_up):
    made_up.spec("a")
    made_up.events("a", {"kind": "stage_started", "done": 0, "total": 4})
    cluster.put_rayjob("a", "Running", "RUNNING")
    cluster.put_pod("a-abcde", "a", "submitter", containerStatuses=[{"state": {"running": {}}}])
    cluster.put_pod("a-x1y2z-head", "a", "head", containerStatuses=[{"state": {"running": {}}}])
    cluster.logs = {
        "a-abcde": ["2026-11-21T05:00:00.1Z \x1b[33mone\x1b[39m"],
        "a-x1y2z-head": ["2026-11-21T05:00:00Z no"],
    }
    assert tc("logs", "a")[1] == "one\n"
    assert "distill started" in tc("logs", "a", "--stage", "distill")[1]
    assert "distill started" not in tc("logs", "a", "--stage", "base")[1]
    del cluster.objects[f"{fake_cluster.CORE}/pods/a-abcde"]
    assert "distill started" in tc("logs", "a")[1]
    assert tc("logs", "a", "--stage", "dream")[0] == 2


def test_followed_logs_go_on_where_they_broke_off_and_end_with_the_run(tc, cluster):
    cluster.put_rayjob("a", "Initializing")
    lines = [f"2026-11-21T05:00:0{second}Z line {number}" for number, second in enumerate([1, 1, 2, 3, 3])]
    looks = []

    def get(run):
        looks.append(run)
        if len(looks) == 4:
            cluster.put_pod("a-abcde", "a", "submitter", containerStatuses=[{"state": {"running": {}}}])
        if len(looks) >= 4:
            cluster.logs["a-abcde"] = lines[: len(looks) - 3]
        if len(looks) == 7:
            raise WorldError("the network blinked")
        cluster.put_rayjob("a", "Running" if len(looks) < 10 else "Complete", "SUCCEEDED" if len(looks) >= 10 else "")
        return Cluster.get(cluster, run)

    cluster.get = get
    code, out, err = tc("logs", "a", "-f")
    assert (code, out.splitlines()) == (0, [line.partition(" ")[2] for line in lines])
    assert "a is starting" in err


def test_lines_of_the_same_moment_are_neither_lost_nor_said_twice():
    fresh = driver_log.Fresh()
    assert list(fresh.only(["1 a", "1 b"])) == ["a", "b"]
    assert list(fresh.only(["1 a", "1 b", "1 c", "2 d"])) == ["c", "d"]
    assert list(fresh.only(["1 c", "2 d"])) == []
    assert list(fresh.only(["2 d", "2 e", "3 "])) == ["e", ""]


# Doing.


def test_a_run_at_work_is_cancelled_through_ray(tc, cluster, monkeypatch):
    cluster.put_rayjob("a", "Running", "RUNNING", **RUNNING)
    asked = []

    def request(_, pod, port, *, method, path, headers):
        asked.append((pod, port, method, path, headers))
        cluster.put_rayjob("a", "Complete", "STOPPED")
        return 200, b'{"stopped": true}'

    monkeypatch.setattr(forward, "request", request)
    code, out, _ = tc("cancel", "a")
    assert asked == [("a-x1y2z-head", 8265, "POST", "/api/jobs/a-j0b/stop", {"Authorization": "Bearer tok"})]
    assert (code, "teddy-cloud resume a" in out) == (0, True)
    assert ("DELETE", f"{fake_cluster.RAYJOBS}/a") not in cluster.asked


def test_a_run_that_ray_would_not_stop_is_no_success(tc, cluster, monkeypatch):
    cluster.put_rayjob("a", "Running", "RUNNING", **RUNNING)
    monkeypatch.setattr(forward, "request", lambda *_, **__: (500, b"no"))
    code, _, err = tc("cancel", "a")
    assert (code, "--now" in err) == (1, True)
    monkeypatch.setattr(forward, "request", lambda *_, **__: (200, b"{}"))
    monkeypatch.setattr(control, "STOP_SECONDS", 0.0)
    code, _, err = tc("cancel", "a")
    assert (code, "has not ended yet" in err) == (1, True)


@pytest.mark.parametrize("arguments", [(), ("--now",)])
def test_a_run_that_has_not_begun_or_hangs_is_deleted(tc, cluster, arguments):
    cluster.put_rayjob("a", "Initializing", **({"job": "RUNNING"} if arguments else {}))
    code, out, _ = tc("cancel", "a", *arguments)
    assert (code, cluster.get("a")) == (0, None)
    assert "cancelled and its RayJob deleted" in out


def test_pause_and_resume_keep_the_rayjob(tc, cluster):
    cluster.put_rayjob("a", "Running", "RUNNING")
    assert tc("pause", "a")[0] == 0
    assert cluster.get("a")["spec"]["suspend"] is True
    cluster.put_rayjob("a", "Suspended", spec={"suspend": True})
    assert tc("resume", "a")[0] == 0
    assert cluster.get("a")["spec"]["suspend"] is False


REFUSED = [
    ("cancel", {"deployment": "Complete", "job": "SUCCEEDED"}, "has ended already"),
    ("pause", {"deployment": "Failed"}, "is failed already"),
    ("pause", {"deployment": "Suspended", "spec": {"suspend": True}}, "is paused already"),
    ("pause", {"deployment": "Running", "labels": {"kueue.x-k8s.io/queue-name": "q"}}, "is in the queue q"),
    ("resume", {"deployment": "Running", "job": "RUNNING"}, "is running, so there is nothing to resume"),
    ("resume", {"deployment": "Retrying"}, "is retrying"),
]


@pytest.mark.parametrize(("command", "rayjob", "words"), REFUSED)
def test_what_makes_no_sense_is_refused(tc, cluster, command, rayjob, words):
    cluster.put_rayjob("a", **rayjob)
    code, out, err = tc(command, "a")
    assert (code, out, words in err) == (2, "", True), err


def test_a_finished_run_is_not_resumed(tc, cluster, made_up):
    made_up.finished("a")
    for rayjob in (True, False):
        if rayjob:
            cluster.put_rayjob("a", "Failed")
        code, _, err = tc("resume", "a")
        assert (code, "is finished" in err) == (2, True)


@pytest.mark.parametrize(
    ("deployment", "job"), [("Failed", "FAILED"), ("Complete", "STOPPED"), ("ValidationFailed", "")]
)
def test_a_run_that_ended_is_made_again_from_its_own_spec(tc, cluster, deployment, job):
    old = cluster.put_rayjob("a", deployment, job, spec={"backoffLimit": 2, "suspend": False, "jobId": "old"})
    code, out, _ = tc("resume", "a")
    new = cluster.get("a")
    assert (code, "a goes on" in out) == (0, True)
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["spec"] == {"entrypoint": "e", "shutdownAfterJobFinishes": True, "backoffLimit": 2}
    assert new["metadata"]["labels"] == old["metadata"]["labels"]
    assert new["metadata"]["annotations"] == {"teddy-cloud/store": "s"}
    assert "status" not in new


def test_a_run_whose_rayjob_is_gone_is_rendered_from_the_store(tc, cluster, made_up):
    made_up.spec("digits-a", distill__ipc=5, compute__executor="ray", compute__workers=2)
    made_up.events("digits-a", {"kind": "ended", "outcome": "failed", "message": "x"})
    code, _, err = tc("resume", "digits-a")
    assert (code, "--workers N for CPUs (it had 2 slots)" in err) == (2, True)
    assert tc("resume", "digits-a", "--gpus", "0", "--workers", "3")[0] == 0
    new = cluster.get("digits-a")
    assert new["spec"]["entrypoint"].endswith("/runs/digits-a")
    environment = new["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    values = {each["name"]: each.get("value", "") for each in environment}
    carried = json.loads(values["TEDDY_SPEC"].replace("$$", "$"))
    assert (carried["distill"]["ipc"], carried["compute"]["workers"], values["TEDDY_SLOT"]) == (5, 3, "CPU")


def test_delete_asks_and_takes_the_results_only_where_told(tc, cluster, made_up, monkeypatch):
    made_up.finished("a")
    cluster.put_rayjob("a", "Complete", "SUCCEEDED")
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert tc("delete", "a")[0] == 130
    assert cluster.get("a")
    assert tc("delete", "a", "--yes")[0] == 0
    assert cluster.get("a") is None
    assert made_up.store.head("runs/a/manifest.json")
    code, _, err = tc("delete", "a", "--yes")
    assert (code, "--results" in err) == (2, True)
    assert tc("delete", "a", "--yes", "--results")[0] == 0
    assert not list(made_up.store.list("runs/a/"))


# Waiting.


def here(cluster, made_up):
    return Place(cluster, str(made_up.store.root), None)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (("Complete", "SUCCEEDED"), 0),
        (("Failed", "FAILED"), 1),
        (("ValidationFailed", ""), 2),
        (("Complete", "STOPPED"), 130),
    ],
)
def test_waiting_ends_with_the_runs_result_and_says_what_changes(cluster, made_up, end, code):
    states = iter([("", ""), ("Initializing", ""), ("Initializing", ""), ("Running", "RUNNING")])

    def get(run):
        cluster.put_rayjob("a", *next(states, end))
        if code == 0 and end[0] == cluster.objects[f"{fake_cluster.RAYJOBS}/a"]["status"]["jobDeploymentStatus"]:
            made_up.finished("a")
        return Cluster.get(cluster, run)

    cluster.get = get
    told = []
    assert watch.wait(here(cluster, made_up), "a", told=told.append).phase.exit_code == code
    phases = [line.partition(": ")[2] for line in told if line.startswith("a: ")]
    assert phases[:2] == ["provisioning", "running"]
    assert len(phases) == 3


def test_waiting_outlives_a_cluster_that_is_away_for_a_while(cluster, made_up, monkeypatch):
    tries = []

    def get(_):
        tries.append(1)
        if len(tries) in (2, 3, 4):
            raise WorldError("away")
        return cluster.put_rayjob("a", *(("Running", "RUNNING") if len(tries) < 6 else ("Failed", "FAILED")))

    cluster.get = get
    told = []
    assert watch.wait(here(cluster, made_up), "a", told=told.append).phase == "failed"
    assert told[:4] == ["a: running", "still waiting: away", "a: running", "a: failed"]
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", -1)
    tries[:] = [1]
    with pytest.raises(WorldError):
        watch.wait(here(cluster, made_up), "a", told=told.append)


def test_who_waits_is_told_why_the_run_waits_and_each_reason_once(cluster, made_up):
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no nodes"}
    cluster.put_pod("a-w-1", "a", "worker", phase="Pending", conditions=[condition])
    states = iter([("Initializing", "")] * 3 + [("Running", "RUNNING")])

    def get(_):
        return cluster.put_rayjob("a", *next(states, ("Complete", "STOPPED")))

    cluster.get = get
    told = []
    assert watch.wait(here(cluster, made_up), "a", told=told.append).phase == "cancelled"
    assert told == ["a: provisioning", "worker pod: no node takes it: no nodes", "a: running", "a: cancelled"]


@pytest.mark.parametrize("back", [True, False])
def test_a_store_that_was_away_is_asked_again_at_the_end(cluster, made_up, monkeypatch, back):
    made_up.finished("a")
    place, asked = here(cluster, made_up), []

    def readable(_):
        asked.append(1)
        return (made_up.store, "") if back and len(asked) > 1 else (None, "it is away")

    monkeypatch.setattr(Place, "readable", readable)
    cluster.put_rayjob("a", "Failed", "FAILED", reason="SubmissionFailed")
    told = []
    assert watch.wait(place, "a", told=told.append).phase == ("finished" if back else "failed")
    assert "the store cannot be read from here, so the cluster's word counts: it is away" in told
    assert len(asked) == 2


# doctor.


def test_a_doctor_says_one_line_a_check_and_fails_if_one_does(tc, cluster):
    code, out, _ = tc("doctor", "--json")
    found = {check["name"]: check for check in json.loads(out)}
    assert list(found) == ["API", "KubeRay", "rights", "settings", "GPUs", "token", "store", "image", "queue"]
    assert (code, {check["level"] for check in found.values()}) == (0, {"ok", "warn"})
    cluster.allowed = lambda verb, resource: (verb, resource) != ("create", "rayjobs")
    code, out, _ = tc("doctor")
    assert code == 1
    assert "fail rights   you may not create rayjobs in namespace ml" in out
    del cluster.objects[f"{fake_cluster.CORE}/configmaps/teddy-cloud"]
    assert "is not prepared for teddy-cloud" in tc("doctor")[1]


def test_a_doctor_counts_gpus_and_finds_failed_pulls(tc, cluster):
    cluster.objects["/api/v1/nodes/n"] = {"metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}}
    event = {"metadata": {"name": "e"}, "reason": "Failed", "message": 'Failed to pull image "i:1": not found'}
    cluster.objects[f"{fake_cluster.CORE}/events/e"] = event
    code, out, _ = tc("doctor")
    assert code == 1
    assert "ok   GPUs     8 on 1 of 1 node" in out
    assert "fail image    i:1 could not be pulled lately" in out


@pytest.mark.parametrize(
    ("kinds", "version", "level"),
    [
        ({"rayjobs"}, "v1.5.1", "fail"), ({"rayjobs"}, "v1.6.2", "ok"), ({"rayjobs"}, "1.10.0", "ok"),
        ({"rayjobs"}, "", "warn"), ({"rayjobs", "raycronjobs"}, "", "ok"), ({"rayservices"}, "v1.6.2", "fail"),
        ({"rayjobs", "raycronjobs"}, "nightly", "ok"),
    ],
)  # fmt: skip
def test_kuberay_must_be_1_6(kinds, version, level):
    assert kuberay(kinds, version).level == level


def test_a_dashboard_without_a_cluster_is_refused(tc, cluster):
    cluster.put_rayjob("a", "Suspended")
    code, _, err = tc("dashboard", "a")
    assert (code, "has no Ray cluster now" in err) == (2, True)


def test_an_ambiguous_name_is_refused_with_the_names(tc, cluster, made_up):
    made_up.spec("digits-a")
    cluster.put_rayjob("digits-b", "Running")
    code, _, err = tc("status", "digits")
    assert (code, "begins the names of 2 runs" in err) == (2, True)
    with pytest.raises(UserError):
        control.of_cluster(None, None).find("x")
