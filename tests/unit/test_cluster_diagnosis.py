"""Why a run waits or failed: sentences from objects that a real cluster gave (observed/), and from a few made up."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from teddy_cloud.cluster.diagnosis import Situation, diagnose, restarts, workers

OBSERVED = Path(__file__).parent / "observed"


def observed(name: str) -> Situation:
    """Kubernetes 1.34, KubeRay 1.6.2, Kueue 0.15.2; trimmed to what a diagnosis may read."""
    return Situation(**json.loads((OBSERVED / f"{name}.json").read_text(encoding="utf-8")))


SAID = {
    "bad-image": [
        ["head pod: the image localhost:5000/teddy-cloud:no-such-tag cannot be pulled: the registry has no such image"],
        ["worker pod: the image no-such-registry.invalid/x:1 cannot be pulled: the registry cannot be reached"],
    ],
    "no-gpu": [
        ["worker pod: no node takes it: it asks for 1 nvidia.com/gpu; 3 of 3 have not enough nvidia.com/gpu free"],
        ["head pod: no node takes it: 3 of 3 have other labels than the pod's node selector (pool=on-demand)"],
    ],
    "too-big": [["head pod", "it asks for 999 cpu and 9Ti memory", "3 of 3 have not enough memory free"]],
    "no-volume": [["head pod: no node takes it", 'persistentvolumeclaim "datasets" not found']],
    "no-secret": [["head pod: its container cannot be started", 'secret "bucket-keys" not found']],
    "violates": [["the head pod is not admitted", "Standard restricted", "allowPrivilegeEscalation"]],
    "violates-submitter": [["the submitter pod is not admitted", "Standard restricted", "runAsNonRoot"]],
    "quota": [["the worker pod is not admitted", "quota teddy is used up", "limited: requests.cpu=150m"]],
    "oom": [["head pod: it needed more memory than its limit of 100Mi and was killed"]],
    "crash": [["head pod", "ends with exit code 3", "teddy-cloud logs"]],
    "invalid": [["KubeRay refuses the RayJob", "BackoffLimit is incompatible with ClusterSelector"]],
    "bad": [["the run itself ended with an error: teddy-cloud logs"]],
    "preempted": [["worker pod: a pod of higher priority took its place (node teddy-2)"]],
    "evicted": [["worker pod: it was evicted, as when a node is drained (node "]],
    "queued": [
        ["it waits in the queue team: couldn't assign flavors", "insufficient quota for cpu in flavor teddy-k8s"]
    ],
    "good": [],
}


def test_every_observation_is_explained():
    assert {path.stem for path in OBSERVED.glob("*.json")} >= set(SAID)


@pytest.mark.parametrize("name", SAID)
def test_an_observed_situation_is_said_in_words(name):
    said = diagnose(observed(name))
    assert len(said) == len(SAID[name]), said
    for words in SAID[name]:
        assert any(all(word in sentence for word in words) for sentence in said), said


@pytest.mark.parametrize("name", SAID)
def test_every_sentence_is_one_line(name):
    assert not [sentence for sentence in diagnose(observed(name)) if "\n" in sentence]


def test_restarts_and_workers_are_counted():
    assert restarts(observed("oom")) == restarts(observed("crash")) == 1
    assert restarts(observed("good")) == 0
    assert workers(observed("good")) == (1, 1)
    assert workers(observed("bad-image")) == (0, 1)
    assert workers(observed("invalid")) is None


def rayjob(deployment="Initializing", *, queue="", suspend=False, **status) -> dict:
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    metadata = {"name": "a", "labels": labels, "creationTimestamp": "2026-11-21T05:00:00Z"}
    return {
        "metadata": metadata,
        "spec": {"suspend": suspend, "activeDeadlineSeconds": 7200},
        "status": {"jobDeploymentStatus": deployment, **status},
    }


def pod(name="a-abcde-cpu-worker-1", *, role="worker", phase="Running", conditions=(), containers=(), **status) -> dict:
    return {
        "metadata": {"name": name, "labels": {"teddy-cloud/role": role}},
        "spec": {"nodeName": "n1", "containers": [{"name": "ray-worker", "image": "i:1"}]},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": list(containers), **status},
    }


def unschedulable(message: str) -> dict:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(phase="Pending", conditions=[condition])


def said(*pods: dict, events=(), **of_rayjob) -> list[str]:
    return diagnose(Situation(rayjob=rayjob(**of_rayjob), pods=pods, events=events))


def test_taints_and_cordons_are_named():
    message = (
        "0/4 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: present}, 2 node(s) were"
        " unschedulable, 1 Too many pods. preemption: 0/4 nodes are available: 4 Preemption is not helpful."
    )
    (sentence,) = said(unschedulable(message))
    for words in (
        "1 of 4 have a taint that the pod does not tolerate (nvidia.com/gpu: present)",
        "2 of 4 have been cordoned",
        "1 of 4 have as many pods as they take",
    ):
        assert words in sentence


def test_a_scheduler_that_speaks_otherwise_is_quoted():
    assert said(unschedulable("no nodes available to schedule pods")) == [
        "worker pod: no node takes it: no nodes available to schedule pods"
    ]


def test_pods_with_the_same_trouble_share_a_sentence():
    (sentence,) = said(*[unschedulable("0/1 nodes are available: 1 Insufficient cpu.")] * 3)
    assert sentence.startswith("3 worker pods: no node takes it")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("PreemptionByScheduler", "a pod of higher priority took its place"),
        ("DeletionByTaintManager", "its node was lost, or is being emptied"),
        ("EvictionByEvictionAPI", "drained"),
        ("TerminationByKubelet", "its node shut down"),
    ],
)
def test_a_disruption_is_named_with_its_node(reason, words):
    (sentence,) = said(pod(conditions=[{"type": "DisruptionTarget", "status": "True", "reason": reason}]))
    assert words in sentence
    assert "(node n1)" in sentence


def test_an_evicted_pod_says_what_its_node_lacked():
    (sentence,) = said(pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."))
    assert "too little memory or disk" in sentence
    assert "low on resource: memory" in sentence


def test_a_node_that_fell_silent_is_told_from_a_pod_that_is_not_ready():
    not_ready = {"type": "Ready", "status": "False"}
    (sentence,) = said(pod(conditions=[not_ready], containers=[{"name": "ray-worker", "ready": True}]))
    assert "its node n1 does not answer" in sentence
    assert said(pod(conditions=[not_ready], containers=[{"name": "ray-worker", "ready": False, "state": {}}])) == []


def test_a_volume_that_cannot_be_mounted_is_named():
    event = {
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "keys" : secret "bucket-keys" not found',
        "involvedObject": {"kind": "Pod", "name": "a-abcde-cpu-worker-1"},
    }
    (sentence,) = said(pod(phase="Pending"), events=[event])
    assert 'a volume cannot be mounted: MountVolume.SetUp failed for volume "keys" : secret "bucket-keys"' in sentence
    assert said(pod(phase="Running"), events=[event]) == []


def test_private_images_and_names_that_are_none_are_told_apart():
    def image(reason: str, message: str) -> str:
        waiting = {"waiting": {"reason": reason, "message": message}}
        return said(pod(containers=[{"name": "ray-worker", "image": "r/i:1", "state": waiting}]))[0]

    assert "does not let the cluster read it" in image("ErrImagePull", "failed to authorize: 403 Forbidden")
    assert "that is no image's name" in image("InvalidImageName", "couldn't parse image name")
    assert "imagePullPolicy is Never" in image("ErrImageNeverPull", "x")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"deployment": "Failed", "reason": "DeadlineExceeded"}, "longer than its 2 hours"),
        ({"deployment": "Failed", "reason": "PreRunningDeadlineExceeded"}, "--queue-timeout"),
        ({"deployment": "Failed", "reason": "SubmissionFailed"}, "the submitter could not hand the run to Ray"),
        ({"deployment": "Retrying", "reason": "JobStatusCheckTimeoutExceeded"}, "Ray's head did not answer"),
        ({"deployment": "Failed", "reason": "New", "message": "some\nnews"}, "KubeRay calls it failed: New some news"),
    ],
)
def test_the_reasons_of_an_end_are_said_in_words(status, words):
    (sentence,) = said(**status)
    assert words in sentence


def test_a_run_that_the_operator_leaves_alone_says_so_after_a_while():
    found = Situation(rayjob=rayjob(""))
    begun = 1795237200.0  # 2026-11-21T05:00:00Z
    assert diagnose(found, now=begun + 10) == []
    (sentence,) = diagnose(found, now=begun + 60)
    assert "KubeRay's operator has not looked at the run yet" in sentence


def test_a_queue_says_why_a_run_waits_and_that_it_lost_its_place():
    quota = {"type": "QuotaReserved", "status": "False", "message": "insufficient quota for cpu in flavor default"}
    found = Situation(rayjob=rayjob("", queue="team", suspend=True), workload={"status": {"conditions": [quota]}})
    assert diagnose(found) == ["it waits in the queue team: insufficient quota for cpu in flavor default"]
    evicted = {
        "type": "Evicted",
        "status": "True",
        "reason": "Preempted",
        "message": "Preempted to accommodate a workload",
    }
    found = Situation(
        rayjob=rayjob("", queue="team", suspend=True), workload={"status": {"conditions": [quota, evicted]}}
    )
    assert "took its place away (Preempted to accommodate" in diagnose(found)[0]
    assert diagnose(Situation(rayjob=rayjob("", queue="team", suspend=True))) == [
        "it waits in the queue team, which has not looked at it yet"
    ]


def test_workers_that_do_not_reach_a_ready_head_are_noticed_after_a_while():
    found = observed("no-way")
    begun = datetime.fromisoformat("2026-11-21T06:20:00Z").timestamp()
    assert diagnose(found, now=begun + 30) == []
    (sentence,) = diagnose(found, now=begun + 300)
    assert sentence.startswith("2 worker pods do not reach the head, which is ready: do a NetworkPolicy")
    headless = [pod for pod in found.pods if "head" not in pod["metadata"]["name"]]
    assert diagnose(Situation(rayjob=found.rayjob, pods=headless), now=begun + 300) == []


def test_nothing_is_said_of_what_is_not_there():
    assert diagnose(Situation(rayjob=None)) == []
