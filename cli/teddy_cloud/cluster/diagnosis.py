"""Why a run waits or failed, in words, with what to do: from its objects in the cluster as they are; pure.

    for sentence in diagnose(Situation(rayjob=rayjob, pods=pods, events=events)):
        print(sentence)

Pods with the same trouble share a sentence. An empty answer means that nothing stands in the way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from teddy_cloud.cluster.refusals import admission
from teddy_cloud.cluster.state import QUEUE_LABEL
from teddy_ray.report.text import count

Json = Mapping[str, Any]

UNTOUCHED_SECONDS = 30.0
"""The operator answers a new RayJob at once; one that it left alone for this long has no operator."""
UNREACHED_SECONDS = 90.0
"""A worker finds a head that is ready within seconds; one that looks for it this long is kept from it."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A run's objects as the API gives them; ``workload`` is Kueue's."""

    rayjob: Json | None
    raycluster: Json | None = None
    pods: Sequence[Json] = ()
    events: Sequence[Json] = ()
    workload: Json | None = None


def diagnose(found: Situation, *, now: float | None = None) -> list[str]:
    """What stands in a run's way, the most telling first. ``now`` is Unix time, for what takes too long."""
    if found.rayjob is None:
        return []
    sentences = [*_of_rayjob(found.rayjob, now), *_of_queue(found)]
    sentences += [*_of_raycluster(found), *_of_submitter(found), *_of_pods(found), *_of_the_way(found, now)]
    return list(dict.fromkeys(sentences))


def restarts(found: Situation) -> int:
    """How often a container of the run's present pods was started again."""
    return sum(status.get("restartCount") or 0 for pod in found.pods for status in _containers(pod))


def workers(found: Situation) -> tuple[int, int] | None:
    """How many workers are ready and how many the run asks for; None before KubeRay has counted."""
    status = _cluster_status(found)
    if not status.get("desiredWorkerReplicas"):
        return None
    ready = sum(_role(pod) == "worker" and _is_ready(pod) for pod in found.pods)
    return ready, int(status["desiredWorkerReplicas"])


# The RayJob itself.

_ENDS = {
    "AppFailed": "the run itself ended with an error: teddy-cloud logs says which",
    "SubmissionFailed": (
        "the submitter could not hand the run to Ray, or lost sight of it: teddy-cloud logs says why, resume tries"
    ),
    "PreRunningDeadlineExceeded": (
        "its pods did not all start within --queue-timeout: resume when there is room, or ask for less"
    ),
    "JobDeploymentStatusTransitionGracePeriodExceeded": (
        "Ray said that it has ended, but the submitter did not end with it: resume goes on from what is done"
    ),
    "JobStatusCheckTimeoutExceeded": (
        "Ray's head did not answer for too long, as a lost or overloaded one does not: resume goes on from what is done"
    ),
}


def _of_rayjob(rayjob: Json, now: float | None) -> Iterator[str]:
    status, spec = rayjob.get("status") or {}, rayjob.get("spec") or {}
    reason, message = status.get("reason") or "", _one_line(status.get("message") or "")
    deployment = status.get("jobDeploymentStatus") or ""
    if deployment == "ValidationFailed":
        yield f"KubeRay refuses the RayJob: {message or 'it does not say why'}; delete the run and submit it anew"
    elif deployment == "Failed" and reason == "DeadlineExceeded":
        hours = (spec.get("activeDeadlineSeconds") or 0) / 3600
        yield f"it took longer than its {hours:g} hours: resume goes on from what is done, submit takes --max-hours"
    elif deployment in ("Failed", "Retrying") and reason in _ENDS:
        yield _ENDS[reason]
    elif deployment == "Failed":
        yield f"KubeRay calls it failed: {' '.join(filter(None, (reason, message))) or 'it does not say why'}"
    elif not deployment and not spec.get("suspend") and now is not None:
        age = now - _unix((rayjob.get("metadata") or {}).get("creationTimestamp"), now)
        if age > UNTOUCHED_SECONDS:
            yield (
                "KubeRay's operator has not looked at the run yet: does it run, and watch this namespace? Its"
                " administrator can see"
            )


def _of_queue(found: Situation) -> Iterator[str]:
    """What Kueue says of a run that it holds back."""
    assert found.rayjob is not None
    queue = ((found.rayjob.get("metadata") or {}).get("labels") or {}).get(QUEUE_LABEL)
    if not queue or not (found.rayjob.get("spec") or {}).get("suspend"):
        return
    conditions = _conditions(found.workload or {})
    evicted, reserved = conditions.get("Evicted", {}), conditions.get("QuotaReserved", {})
    if evicted.get("status") == "True":
        why = _one_line(evicted.get("message") or evicted.get("reason") or "")
        yield f"the queue {queue} took its place away ({why}): it goes on from what is done when there is room again"
    said = _one_line(reserved.get("message") or "") if reserved.get("status") == "False" else ""
    yield f"it waits in the queue {queue}" + (f": {said}" if said else ", which has not looked at it yet")


# The RayCluster, and the submitter: pods that could not even be made.


def _of_raycluster(found: Situation) -> Iterator[str]:
    condition = _conditions({"status": _cluster_status(found)}).get("ReplicaFailure", {})
    if condition.get("status") != "True":
        return
    role = "head" if "Head" in condition.get("reason", "") else "worker"
    yield _not_made(role, condition.get("message") or condition.get("reason") or "")


def _of_submitter(found: Situation) -> Iterator[str]:
    if any(_role(pod) == "submitter" for pod in found.pods):
        return  # what went wrong before has been overcome
    for event in reversed(found.events):
        if event.get("reason") == "FailedCreate" and event["involvedObject"].get("kind") == "Job":
            yield _not_made("submitter", event.get("message") or "")
            return


def _not_made(role: str, message: str) -> str:
    return f"the {role} pod is not admitted: {admission(message) or _one_line(message)}"


# The pods.


def _of_pods(found: Situation) -> Iterator[str]:
    """Each trouble once, with how many pods of which role have it."""
    troubles: dict[str, Counter[str]] = {}
    for pod in found.pods:
        about = [event for event in found.events if event["involvedObject"].get("name") == pod["metadata"]["name"]]
        for trouble in dict.fromkeys(_of_pod(pod, about)):
            troubles.setdefault(trouble, Counter())[_role(pod)] += 1
    for trouble, roles in troubles.items():
        subject = " and ".join(
            f"{number} {role} pods" if number > 1 else f"{role} pod" for role, number in roles.items()
        )
        yield f"{subject}: {trouble}"


def _of_pod(pod: Json, events: Sequence[Json]) -> Iterator[str]:
    status, conditions = pod.get("status") or {}, _conditions(pod)
    disruption = conditions.get("DisruptionTarget", {})
    if disruption.get("status") == "True":
        yield _disrupted(disruption, pod)
        return
    if status.get("phase") == "Failed" and status.get("reason"):
        what = _EVICTIONS.get(status["reason"], status["reason"])
        yield f"{what} ({_one_line(status.get('message') or 'no more is said')})"
        return
    if _is_silent(pod, conditions):
        node = (pod.get("spec") or {}).get("nodeName")
        yield f"its node {node} does not answer; Kubernetes replaces the pod, and the run goes on from what is done"
        return
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        yield _unschedulable(scheduled.get("message") or "", pod)
        return
    for container in _containers(pod):
        yield from _of_container(container, pod)
    if status.get("phase") == "Pending":
        yield from _of_mounts(events)


def _of_the_way(found: Situation, now: float | None) -> Iterator[str]:
    """Workers that wait for a head which is there: KubeRay lets them wait in silence."""
    if now is None or not any(_role(pod) == "head" and _is_ready(pod) for pod in found.pods):
        return
    waiting = [
        started
        for pod in found.pods
        for container in (pod.get("status") or {}).get("initContainerStatuses") or []
        if container.get("name") == "wait-gcs-ready"
        and (started := ((container.get("state") or {}).get("running") or {}).get("startedAt"))
        and now - _unix(started, now) > UNREACHED_SECONDS
    ]
    if waiting:
        subject = f"{len(waiting)} worker pods do" if len(waiting) > 1 else "worker pod does"
        yield (
            f"{subject} not reach the head, which is ready: do a NetworkPolicy or the cluster's DNS keep them from it?"
            " The log of their container wait-gcs-ready says more"
        )


_DISRUPTIONS = {
    "PreemptionByScheduler": "a pod of higher priority took its place",
    "DeletionByTaintManager": "its node was lost, or is being emptied",
    "EvictionByEvictionAPI": "it was evicted, as when a node is drained",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node shut down, or had too little memory or disk",
}
_EVICTIONS = {
    "Evicted": "its node had too little memory or disk, and evicted it",
    "Preempting": "a pod of higher priority took its place",
    "NodeShutdown": "its node shut down",
    "Terminated": "its node shut down",
    "NodeLost": "its node was lost",
    "DeadlineExceeded": "it took longer than its pod may",
}


def _disrupted(condition: Json, pod: Json) -> str:
    node = (pod.get("spec") or {}).get("nodeName")
    what = _DISRUPTIONS.get(condition.get("reason", ""), _one_line(condition.get("message") or "it is being moved"))
    return what + (f" (node {node})" if node else "") + "; it is replaced, and the run goes on from what is done"


def _is_silent(pod: Json, conditions: Mapping[str, Json]) -> bool:
    """The node's last word was that all containers run, and yet the pod counts as not ready: nobody hears the node."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    all_ready = bool(containers) and all(each.get("ready") for each in containers)
    return all_ready and conditions.get("Ready", {}).get("status") in ("False", "Unknown")


_SCHEDULING = (
    (r"Insufficient (\S+)", "not enough {0} free"),
    (r"node\(s\) didn't match Pod's node affinity/selector", "other labels than the pod's node selector ({selector})"),
    (r"node\(s\) had untolerated taints? ?(?:\{{?([^}}]*)\}})?", "a taint that the pod does not tolerate ({0})"),
    (r"node\(s\) were unschedulable", "been cordoned"),
    (r"Too many pods", "as many pods as they take"),
)


def _unschedulable(message: str, pod: Json) -> str:
    said = re.match(r"0/(\d+) nodes are available: (.*?)(?:\. |\.$|$)", _one_line(message))
    if not said:
        return f"no node takes it: {_one_line(message)}"
    asked = _asked(pod)
    reasons, wanted = [], []
    for part in said[2].split(", "):
        number, words = re.match(r"(?:(\d+) )?(.*)", part).groups()  # type: ignore[union-attr]
        reasons.append(f"{number} of {said[1]} have {_why(words, pod)}" if number else words)
        if (short := re.match(r"Insufficient (\S+)", words)) and short[1] in asked:
            wanted.append(f"{asked[short[1]]} {short[1]}")
    asks = f"it asks for {' and '.join(wanted)}; " if wanted else ""
    advice = (
        "ask for less, wait for room, or have nodes added" if wanted else "change what it asks for, or have it provided"
    )
    return f"no node takes it: {asks}{', '.join(reasons)}; {advice}"


def _why(words: str, pod: Json) -> str:
    selector = ", ".join(f"{key}={value}" for key, value in ((pod.get("spec") or {}).get("nodeSelector") or {}).items())
    for pattern, said in _SCHEDULING:
        if found := re.fullmatch(pattern.replace("{{", "{").replace("}}", "}"), words):
            return said.format(*(group or "?" for group in found.groups()), selector=selector or "affinity")
    return f"'{words}'"


def _asked(pod: Json) -> dict[str, str]:
    """What the main container asks for, by resource."""
    resources = ((pod.get("spec") or {}).get("containers") or [{}])[0].get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def _of_container(container: Json, pod: Json) -> Iterator[str]:
    state, last = container.get("state") or {}, container.get("lastState") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or last.get("terminated") or {}
    reason, message = waiting.get("reason") or "", _one_line(waiting.get("message") or "")
    if ended.get("reason") == "OOMKilled":
        limit = _limit(pod, container.get("name", ""))
        yield f"it needed more memory than its limit{limit} and was killed: raise the memory in the chart's values"
    elif reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"):
        yield _image(container.get("image") or _image_of(pod, container), reason, message)
    elif reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"):
        yield f"its container cannot be started: {message or reason}; see that what it names is in the namespace"
    elif reason == "CrashLoopBackOff" and ended:
        times = container.get("restartCount") or 0
        yield (
            f"its container {container.get('name')} ends with exit code {ended.get('exitCode')} as soon as it starts"
            f" (started again {count(times, 'time')}): teddy-cloud logs, or kubectl logs, has its last words"
        )


def _image(image: str, reason: str, message: str) -> str:
    """Why an image does not come; the same whether the first pull has just failed or the fifth is waited for."""
    known = (
        (r"not found|manifest unknown", "the registry has no such image"),
        (r"unauthorized|denied|authentication|forbidden|\b40[13]\b", "the registry does not let the cluster read it"),
        (r"no such host|dial tcp|timeout|connection refused|TLS|x509", "the registry cannot be reached"),
    )
    why = next((words for pattern, words in known if re.search(pattern, message, re.IGNORECASE)), message or reason)
    if reason == "InvalidImageName":
        why = "that is no image's name"
    if reason == "ErrImageNeverPull":
        why = "the node does not have it, and imagePullPolicy is Never"
    return f"the image {image} cannot be pulled: {why}; set image (and imagePullSecrets) in the chart's values"


def _of_mounts(events: Sequence[Json]) -> Iterator[str]:
    for event in reversed(events):
        if event.get("reason") in ("FailedMount", "FailedAttachVolume"):
            yield f"a volume cannot be mounted: {_one_line(event.get('message') or '')}"
            return


# Reading.


def _cluster_status(found: Situation) -> Json:
    """The RayCluster's own status, else KubeRay's copy of it in the RayJob."""
    own = (found.raycluster or {}).get("status")
    return own or ((found.rayjob or {}).get("status") or {}).get("rayClusterStatus") or {}


def _conditions(thing: Json) -> dict[str, Json]:
    return {each["type"]: each for each in (thing.get("status") or {}).get("conditions") or []}


def _containers(pod: Json) -> list[Json]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _is_ready(pod: Json) -> bool:
    return _conditions(pod).get("Ready", {}).get("status") == "True"


def _role(pod: Json) -> str:
    labels = (pod.get("metadata") or {}).get("labels") or {}
    return str(labels.get("teddy-cloud/role") or labels.get("ray.io/node-type") or "submitter")


def _limit(pod: Json, name: str) -> str:
    for container in (pod.get("spec") or {}).get("containers") or []:
        memory = ((container.get("resources") or {}).get("limits") or {}).get("memory")
        if container.get("name") == name and memory:
            return f" of {memory}"
    return ""


def _image_of(pod: Json, container: Json) -> str:
    containers = (pod.get("spec") or {}).get("containers") or []
    return next((each["image"] for each in containers if each.get("name") == container.get("name")), "?")


def _unix(moment: str | None, default: float) -> float:
    return datetime.fromisoformat(moment).timestamp() if moment else default


def _one_line(text: str) -> str:
    return " ".join(text.split())
