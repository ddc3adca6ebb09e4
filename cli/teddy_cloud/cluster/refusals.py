"""What the Kubernetes API answers when it does not do as asked, as one sentence with what to do next; pure.

raise refusal(403, body, doing="list rayjobs", where="namespace ml")
"""

from __future__ import annotations

import json
import re
from typing import Any

from teddy_ray.errors import UserError, WorldError

_NO_RIGHT = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)"'
    r'(?: in API group "[^"]*")?(?: in the namespace "(?P<namespace>[^"]+)")?'
)
_POD_SECURITY = re.compile(r'violates PodSecurity "(?P<level>[^"]+)": (?P<why>.*)', re.DOTALL)
_QUOTA = re.compile(r"exceeded quota: (?P<quota>[^,]+), (?P<numbers>.*)", re.DOTALL)
_WEBHOOK = re.compile(r'admission webhook "(?P<name>[^"]+)" denied the request:? ?(?P<why>.*)', re.DOTALL)


class NotFoundError(UserError):
    """The object is not there."""


class NotInstalledError(UserError):
    """The cluster does not know this kind of object."""


class ForbiddenError(UserError):
    """The user lacks a right."""


class ExistsError(UserError):
    """There is an object of this name, or it has changed in between."""


def refusal(status: int, body: bytes, *, doing: str, where: str) -> UserError | WorldError:
    """The error for an answer of ``status``, with the server's own reason where it says more than the number."""
    found = _status(body)
    said = _one_line(found["message"]) if found else _one_line(body.decode(errors="replace"))[:300]
    if status == 401:
        return UserError(
            f"the cluster does not accept your credentials (401, to {doing} in {where}): log in again, as for kubectl"
        )
    if status == 403:
        return _forbidden(said, doing, where)
    if status == 404:
        return _not_found(found, said, doing, where)
    if status == 409:
        return ExistsError(f"cannot {doing} in {where}: {said}")
    if status in (400, 422):
        return _denied(said, doing, where) or UserError(f"the cluster refuses to {doing} in {where}: {said}")
    return WorldError(
        f"the cluster could not {doing} in {where} (it answered {status}: {said or 'nothing'}): try again"
    )


def _forbidden(said: str, doing: str, where: str) -> UserError:
    if right := _NO_RIGHT.search(said):
        place = f"in namespace {right['namespace']}" if right["namespace"] else "in the whole cluster"
        return ForbiddenError(
            f"you ({right['user']}) may not {right['verb']} {right['resource']} {place}: ask its administrator for the"
            " Role teddy-cloud-user, or choose another --namespace"
        )
    return _denied(said, doing, where) or ForbiddenError(f"you may not {doing} in {where}: {said or 'no reason given'}")


def _denied(said: str, doing: str, where: str) -> UserError | None:
    """An admission's refusal, whose sentence is the same wherever it comes from: an answer, or an event."""
    sentence = admission(said)
    return UserError(f"cannot {doing} in {where}: {sentence}") if sentence else None


def admission(said: str) -> str | None:
    """What an admission check means by a message, or None if it is not one's."""
    said = _one_line(said)
    if found := _POD_SECURITY.search(said):
        return (
            f"the namespace enforces the Pod Security Standard {found['level'].partition(':')[0]}, which the pod"
            f" violates: {found['why']}; use the chart's settings unchanged, or another namespace"
        )
    if found := _QUOTA.search(said):
        return (
            f"the namespace's quota {found['quota']} is used up ({found['numbers']}): ask for less, wait for other"
            " runs to end, or have it raised"
        )
    if found := _WEBHOOK.search(said):
        return f"the cluster's admission check {found['name']} refuses it: {found['why'] or 'no reason given'}"
    return None


def _not_found(found: dict[str, Any] | None, said: str, doing: str, where: str) -> UserError:
    if found is None or not found.get("details", {}).get("name"):
        # An unknown API is answered by the server's router, in plain text; an unknown object by its storage.
        if "Ray" in doing or "rayjobs" in doing:
            return NotInstalledError(
                f"cannot {doing}: KubeRay is not installed in this cluster; its administrator installs 1.6 or later"
            )
        return NotInstalledError(f"cannot {doing}: this cluster has no such API (404)")
    return NotFoundError(f"cannot {doing} in {where}: {said}")


def _status(body: bytes) -> dict[str, Any] | None:
    """The Status object of an answer, or None where it is something else."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("message"), str) else None


def _one_line(text: str) -> str:
    return " ".join(text.split())
