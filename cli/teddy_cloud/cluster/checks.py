"""The checks of ``teddy-cloud doctor``: whether a namespace, its cluster and its store have what a run needs.

    for check in checks(place):
        print(check.level, check.name, check.said)

Each asks for one thing and says in a sentence what to do where it is wanting. None changes anything but the store,
where a small file is written and removed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from teddy_cloud.cluster.api import ForbiddenError, NotFoundError, NotInstalledError
from teddy_ray.errors import UserError, WorldError
from teddy_ray.report.text import count

if TYPE_CHECKING:
    from teddy_cloud.cluster.settings import Settings
    from teddy_cloud.stores import Place

OLDEST_KUBERAY = (1, 6)
RIGHTS = (
    ("create", "rayjobs", "ray.io", ""), ("get", "rayjobs", "ray.io", ""), ("list", "rayjobs", "ray.io", ""),
    ("patch", "rayjobs", "ray.io", ""), ("delete", "rayjobs", "ray.io", ""), ("get", "rayclusters", "ray.io", ""),
    ("list", "pods", "", ""), ("get", "pods", "", "log"), ("list", "events", "", ""),
    ("create", "pods", "", "portforward"),
)  # fmt: skip
"""What the commands ask for: verb, resource, API group, subresource."""

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what to know or do about it."""

    name: str
    level: Level
    said: str


def checks(place: Place) -> Iterator[Check]:
    """All of them, in the order in which one needs the other; what cannot be looked at is left out."""
    assert place.cluster is not None
    api = _api(place)
    yield api
    if api.level == "fail":
        return
    yield from _guarded("KubeRay", lambda: [_kuberay(place)])
    yield from _guarded("rights", lambda: [_rights(place)])
    settings = list(_guarded("settings", lambda: [_settings(place)]))
    yield from settings
    yield from _guarded("GPUs", lambda: [_gpus(place)])
    if settings[0].level == "fail":
        return
    yield from _guarded("token", lambda: [_token(place)])
    yield from _guarded("store", lambda: _store(place))
    yield from _guarded("image", lambda: [_image(place)])
    yield from _guarded("queue", lambda: [_queue(place)])


def _guarded(name: str, look: Callable[[], list[Check]]) -> Iterator[Check]:
    """The checks, or a failed one with the reason why they could not be made."""
    try:
        yield from look()
    except (UserError, WorldError) as error:
        yield Check(name, "fail", str(error))


def _api(place: Place) -> Check:
    assert place.cluster is not None
    try:
        version = place.cluster.request("GET", "/version", doing="ask for the cluster's version")
        place.cluster.can_i("get", "pods")  # /version answers anybody; this one knows who asks
    except (UserError, WorldError) as error:
        return Check("API", "fail", str(error))
    return Check("API", "ok", f"{place.cluster.where}, Kubernetes {version.get('gitVersion', '?')}")


def _kuberay(place: Place) -> Check:
    """By the operator's image where one may look, else by what KubeRay's API offers, which everybody may."""
    assert place.cluster is not None
    try:
        kinds = place.cluster.request("GET", "/apis/ray.io/v1", doing="find KubeRay's API (ray.io/v1)")["resources"]
    except NotInstalledError:
        return Check(
            "KubeRay", "fail", "KubeRay is not installed in this cluster: its administrator installs 1.6 or later"
        )
    version = operator_version(place)
    return kuberay({kind["name"] for kind in kinds}, version)


def kuberay(kinds: set[str], version: str) -> Check:
    """What to think of a KubeRay with these kinds of objects; ``version`` is its operator's, empty where unknown."""
    if "rayjobs" not in kinds:
        return Check("KubeRay", "fail", "KubeRay here has no RayJobs: its administrator installs 1.6 or later")
    if found := re.match(r"v?(\d+)\.(\d+)", version):
        if (int(found[1]), int(found[2])) < OLDEST_KUBERAY:
            return Check(
                "KubeRay", "fail", f"KubeRay is {version}, which is too old: its administrator installs 1.6 or later"
            )
        return Check("KubeRay", "ok", f"KubeRay {version}")
    if "raycronjobs" in kinds:  # which came with 1.6
        return Check("KubeRay", "ok", "KubeRay 1.6 or later, by the kinds that it offers")
    return Check(
        "KubeRay",
        "warn",
        "KubeRay seems to be older than 1.6, as it has no RayCronJobs: its administrator knows its version",
    )


def operator_version(place: Place) -> str:
    """The tag of the operator's image; empty where it has none, or is not for us to see."""
    assert place.cluster is not None
    try:
        found = place.cluster.items("/apis/apps/v1/deployments", doing="list deployments", labelSelector=OPERATOR)
        images = [pod["image"] for each in found for pod in each["spec"]["template"]["spec"]["containers"]]
    except (UserError, WorldError):
        return ""
    tags = [image.partition("@")[0].rpartition(":")[2] for image in images if "operator" in image]
    return next((tag for tag in tags if re.match(r"v?\d+\.\d+", tag)), "")


OPERATOR = "app.kubernetes.io/component=kuberay-operator"


def _rights(place: Place) -> Check:
    cluster = place.cluster
    assert cluster is not None
    lacking = [
        f"{verb} {resource}{f'/{sub}' if sub else ''}"
        for verb, resource, group, sub in RIGHTS
        if not cluster.can_i(verb, resource, group=group, subresource=sub)
    ]
    if not lacking:
        return Check("rights", "ok", f"all that the commands need in namespace {cluster.namespace}")
    needed = "its administrator binds you to the Role teddy-cloud-user, or you choose another --namespace"
    return Check("rights", "fail", f"you may not {', '.join(lacking)} in namespace {cluster.namespace}: {needed}")


def _settings(place: Place) -> Check:
    settings: Settings = place.settings
    return Check("settings", "ok", f"image {settings.image}, store {settings.store.uri}")


def _token(place: Place) -> Check:
    assert place.cluster is not None
    try:
        place.cluster.token()
    except ForbiddenError as error:
        return Check("token", "warn", f"cancel and dashboard will not work: {error}")
    except NotFoundError as error:
        return Check("token", "fail", f"{error}: no run can start; its administrator installs the chart again")
    return Check("token", "ok", "Ray's token is there")


def _gpus(place: Place) -> Check:
    """What nodes offer; whether it is free, only the scheduler knows."""
    assert place.cluster is not None
    try:
        nodes = list(place.cluster.items("/api/v1/nodes", doing="list nodes"))
    except ForbiddenError:
        return Check("GPUs", "warn", "you may not look at nodes, so nobody knows here; a run that finds none says so")
    offered = [int((node["status"].get("allocatable") or {}).get("nvidia.com/gpu", 0)) for node in nodes]
    if not any(offered):
        return Check(
            "GPUs", "warn", f"none on {count(len(nodes), 'node')} now: submit --gpus waits for some, --gpus 0 does not"
        )
    return Check("GPUs", "ok", f"{sum(offered)} on {sum(map(bool, offered))} of {count(len(nodes), 'node')}")


def _store(place: Place) -> list[Check]:
    """From this machine, with the user's own credentials; the pods' are their own."""
    from teddy_ray.store.probe import refuse_unsafe

    name = f"{place.store_name} from this machine"
    elsewhere = "pods have other credentials, which `helm test` tries"
    try:
        store = place.store
        next(iter(store.list("runs/")), None)
    except (UserError, WorldError) as error:
        return [Check("store", "warn", f"{error}; submit works without, status, logs and pull need it; {elsewhere}")]
    key = f"doctor/{secrets.token_hex(8)}"
    try:
        store.put_bytes(key, b"written by teddy-cloud doctor, and removed at once")
        store.delete(key)
    except (UserError, WorldError) as error:
        return [
            Check("store", "warn", f"{name} can be read, not written ({error}); runs are written by pods: {elsewhere}")
        ]
    refuse_unsafe(store, allow_unsafe=False)
    return [Check("store", "ok", f"{name} can be read, written, and written conditionally; {elsewhere}")]


def _image(place: Place) -> Check:
    """What the namespace's pods have met with lately: nothing is pulled for this."""
    cluster, image = place.cluster, place.settings.image
    assert cluster is not None
    events = [
        event for event in cluster.items(_events(place), doing="list events") if image in (event.get("message") or "")
    ]
    pulled = [event for event in events if event.get("reason") == "Pulled"]
    failed = [event for event in events if event.get("reason") in ("Failed", "BackOff")]
    if failed and not pulled:
        return Check(
            "image", "fail", f"{image} could not be pulled lately: {' '.join(failed[-1]['message'].split())[:300]}"
        )
    if pulled:
        return Check("image", "ok", f"{image} has been pulled within the hour")
    return Check(
        "image", "warn", f"{image}: no pod has pulled it lately; doctor --image-pull tries it, `helm test` too"
    )


def _events(place: Place) -> str:
    assert place.cluster is not None
    return f"/api/v1/namespaces/{place.cluster.namespace}/events"


def _queue(place: Place) -> Check:
    cluster, queue = place.cluster, place.settings.job.queue
    assert cluster is not None
    if not queue:
        return Check("queue", "ok", "none is set: runs start as soon as there is room")
    try:
        group = cluster.request("GET", "/apis/kueue.x-k8s.io", doing="find Kueue's API")
        path = cluster.group(group["preferredVersion"]["groupVersion"], f"localqueues/{queue}")
        found = cluster.read(path, doing=f"read LocalQueue {queue}")
    except NotInstalledError:
        return Check(
            "queue", "fail", f"the settings name the queue {queue}, but Kueue is not installed in this cluster"
        )
    except ForbiddenError as error:
        return Check("queue", "warn", str(error))
    if found is None:
        return Check("queue", "fail", f"there is no LocalQueue {queue} in namespace {cluster.namespace}: have it made")
    active = {each["type"]: each for each in (found.get("status") or {}).get("conditions") or []}.get("Active", {})
    if active.get("status") == "False":
        return Check(
            "queue", "fail", f"the queue {queue} takes nothing: {active.get('message') or active.get('reason')}"
        )
    return Check("queue", "ok", f"LocalQueue {queue}")
