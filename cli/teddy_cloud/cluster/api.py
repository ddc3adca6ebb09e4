"""The few calls of the Kubernetes API that we make; each answer is the API's own JSON, as a plain dict.

    cluster = Cluster.connect(context=None, namespace="ml")    # both as kubectl finds them, where None
    cluster.settings().store.uri
    cluster.create(manifest)
    cluster.get("digits-ipc1-teddy-1a2b3c4d")["status"]

The official client reads the kubeconfig and does TLS, proxies, credentials and retries. Its generated classes are left
out: they take half a second to import, and refuse objects that a newer server fills in differently.
Every failure is one sentence: UserError where asking otherwise helps, WorldError where trying again may.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlencode

from teddy_cloud.cluster.access import Access, find
from teddy_cloud.cluster.refusals import ExistsError, ForbiddenError, NotFoundError, NotInstalledError, refusal
from teddy_cloud.cluster.settings import CONFIG_KEY, CONFIG_MAP, TOKEN_SECRET, Settings
from teddy_ray.errors import UserError, WorldError

__all__ = ["Cluster", "ExistsError", "ForbiddenError", "NotFoundError", "NotInstalledError"]

Json = dict[str, Any]
Jsons = list[Json]

RUN_LABEL = "teddy-cloud/run"
"""On a run's RayJob and all its pods."""
OURS = "app.kubernetes.io/managed-by=teddy-cloud"

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
RETRIES = 2
FOLLOW_SECONDS = 60.0
"""A followed log that is silent for this long is asked for anew: its connection may have died without a word."""
PAGE = 500


class Cluster:
    """A namespace of a cluster, as its user may see it."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.namespace = access.namespace

    @classmethod
    def connect(cls, context: str | None = None, namespace: str | None = None) -> Cluster:
        """The cluster of a kubeconfig's context. Asks it nothing yet; raises UserError where there is none."""
        return cls(find(context, namespace))

    @property
    def where(self) -> str:
        """For a sentence: ``namespace ml (context prod)``."""
        return self.access.where

    # What the chart has left.

    def settings(self) -> Settings:
        """The namespace's settings; UserError where the chart is not installed, or left something else."""
        where = f"ConfigMap {CONFIG_MAP} in {self.where}"
        try:
            found = self.request("GET", self._core(f"configmaps/{CONFIG_MAP}"), doing=f"read ConfigMap {CONFIG_MAP}")
        except NotFoundError:
            raise NotFoundError(
                f"{self.where} is not prepared for teddy-cloud (it has no ConfigMap {CONFIG_MAP}): choose another with"
                " --namespace, or have its administrator install the chart helm/teddy-cloud"
            ) from None
        try:
            values = json.loads(found["data"][CONFIG_KEY])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where} has no JSON under {CONFIG_KEY}: is it the chart's? ({error})") from error
        return Settings.validate_values(values, where=where)

    def token(self) -> str:
        """The bearer token that Ray's dashboard and Jobs API ask for."""
        import base64

        found = self.request("GET", self._core(f"secrets/{TOKEN_SECRET}"), doing=f"read Secret {TOKEN_SECRET}")
        try:
            return base64.b64decode(found["data"]["auth_token"]).decode().strip()
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"Secret {TOKEN_SECRET} in {self.where} has no auth_token: install the chart again"
            ) from error

    # Runs.

    def create(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """The RayJob as the server has it then. ``dry_run`` checks everything there and keeps nothing."""
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        name = manifest["metadata"]["name"]
        return self.request("POST", self._ray("rayjobs"), query=query, body=manifest, doing=f"create RayJob {name}")

    def get(self, run: str) -> Json | None:
        """A run's RayJob, or None where there is none."""
        return self.read(self._ray(f"rayjobs/{run}"), doing=f"read RayJob {run}")

    def list(self) -> Jsons:
        """The RayJobs of all runs."""
        return [*self.items(self._ray("rayjobs"), doing="list rayjobs", labelSelector=OURS)]

    def patch(self, run: str, body: Mapping[str, Any]) -> Json:
        """The RayJob with ``body`` merged into it."""
        return self.request(
            "PATCH", self._ray(f"rayjobs/{run}"), body=body, content="application/merge-patch+json",
            doing=f"change RayJob {run}",
        )  # fmt: skip

    def delete(self, run: str) -> None:
        """Delete a run's RayJob and, by Kubernetes' garbage collection, everything it made."""
        query = {"propagationPolicy": "Background"}
        self.request("DELETE", self._ray(f"rayjobs/{run}"), query=query, doing=f"delete RayJob {run}")

    def pods(self, run: str) -> Jsons:
        """Head, workers and submitters of all attempts that are still there."""
        return [*self.items(self._core("pods"), doing="list pods", labelSelector=f"{RUN_LABEL}={run}")]

    def events(self, run: str) -> Jsons:
        """Of the RayJob, its RayClusters, its submitter and its pods, gone ones too; the oldest first."""
        found = self.items(self._core("events"), doing="list events")
        return sorted((event for event in found if _is_about(event, run)), key=_moment)

    def raycluster(self, name: str) -> Json | None:
        """A RayCluster, or None where it is gone."""
        return self.read(self._ray(f"rayclusters/{name}"), doing=f"read RayCluster {name}") if name else None

    def pod_log(
        self, pod: str, container: str = "", *, follow: bool = False, since: str | None = None, tail: int | None = None
    ) -> Iterator[str]:
        """A container's lines, each behind the moment it was written: ``2026-11-21T05:31:00.123456789Z text``.

        ``since`` is such a moment, of which the server honours the whole seconds. With ``follow`` the lines go on until
        the container ends or the connection is lost, which cannot be told apart here.
        """
        import urllib3

        query: dict[str, Any] = {"timestamps": "true", "follow": "true" if follow else "false"}
        query |= {"container": container} if container else {}
        query |= {"sinceTime": since} if since else {}
        query |= {"tailLines": tail} if tail is not None else {}
        path = self._core(f"pods/{pod}/log")
        answer = self._answer(
            "GET", path, query=query, doing=f"read the log of pod {pod}", read_seconds=FOLLOW_SECONDS, preload=False
        )
        rest = b""
        try:
            for chunk in answer.stream(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        except urllib3.exceptions.HTTPError as error:
            if not follow:
                raise WorldError(f"the log of pod {pod} broke off ({_reason(error)}): try again") from error
        finally:
            answer.release_conn()
        if rest:
            yield rest.decode(errors="replace")

    def can_i(self, verb: str, resource: str, *, group: str = "", subresource: str = "", name: str = "") -> bool:
        """Whether the user has a right in the namespace."""
        asked = {"namespace": self.namespace, "verb": verb, "resource": resource}
        asked |= {
            key: value for key, value in (("group", group), ("subresource", subresource), ("name", name)) if value
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self.request("POST", path, body=body, doing="ask for your rights")["status"]["allowed"])

    # The requests themselves.

    def read(self, path: str, *, doing: str) -> Json | None:
        """An object by its path, or None where there is none; not for kinds that the cluster may not know."""
        try:
            return self.request("GET", path, doing=doing)
        except NotFoundError:
            return None

    def items(self, path: str, *, doing: str, **query: str) -> Iterator[Json]:
        """All objects of a list, page by page."""
        more = ""
        while True:
            page = self.request(
                "GET", path, query={**query, "limit": PAGE} | ({"continue": more} if more else {}), doing=doing
            )
            yield from page.get("items") or []
            more = (page.get("metadata") or {}).get("continue") or ""
            if not more:
                return

    def request(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> Json:
        """A request's JSON; ``doing`` is what a sentence about its failure says we wanted."""
        answer = self._answer(method, path, query=query, body=body, content=content, doing=doing)
        try:
            found = json.loads(answer.data)
        except ValueError as error:
            raise self._not_an_api(doing) from error
        if not isinstance(found, dict):
            raise self._not_an_api(doing)
        return found

    def _answer(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        read_seconds: float | None = None,
        preload: bool = True,
    ) -> Any:
        import urllib3

        url = self.access.configuration.host.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "*/*" if not preload else "application/json", "User-Agent": "teddy-cloud"}
        headers |= self.credentials() | ({"Content-Type": content} if body is not None else {})
        try:
            answer = self._pool.request(
                method, url,
                headers=headers,
                body=None if body is None else json.dumps(body),
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds or READ_SECONDS),
                retries=_retries(),
                preload_content=preload,
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(doing, error) from error
        if not 200 <= answer.status < 300:
            raise refusal(answer.status, answer.data, doing=doing, where=self.where)
        return answer

    def credentials(self) -> dict[str, str]:
        """The header of who we are; empty where a client certificate says it."""
        found = self.access.configuration.auth_settings()
        return {each["key"]: each["value"] for each in found.values() if each["in"] == "header" and each["value"]}

    @cached_property
    def _pool(self) -> Any:
        from kubernetes.client.rest import RESTClientObject

        return RESTClientObject(self.access.configuration).pool_manager

    def _core(self, rest: str) -> str:
        return f"/api/v1/namespaces/{quote(self.namespace, safe='')}/{rest}"

    def _ray(self, rest: str) -> str:
        return self.group("ray.io/v1", rest)

    def group(self, version: str, rest: str) -> str:
        """The path of a namespace's objects of another API group: ``group("batch/v1", "jobs")``."""
        return f"/apis/{version}/namespaces/{quote(self.namespace, safe='')}/{rest}"

    def _unreachable(self, doing: str, error: Exception) -> WorldError:
        host = self.access.configuration.host
        return WorldError(
            f"cannot {doing}: the cluster's API at {host} cannot be reached ({_reason(error)}); is it up, and the"
            " network to it?"
        )

    def _not_an_api(self, doing: str) -> WorldError:
        host = self.access.configuration.host
        return WorldError(f"cannot {doing}: {host} does not answer as a Kubernetes API does; is the kubeconfig right?")


def _retries() -> Any:
    """A few, soon, as a restarting API server or a lost packet takes; a write that may have arrived is not repeated."""
    from urllib3 import Retry

    return Retry(
        RETRIES,
        read=0,
        redirect=0,
        backoff_factor=0.3,
        status_forcelist=(429, 502, 503, 504),
        allowed_methods={"GET", "PATCH", "DELETE"},
        raise_on_status=False,
    )


def _reason(error: Any) -> str:
    """The innermost of urllib3's wrappings, in a few words."""
    error = getattr(error, "reason", None) or error
    text = str(error)
    for sign, words in (
        ("Name or service not known", "its name is not known"),
        ("nodename nor servname", "its name is not known"),
        ("Temporary failure in name resolution", "its name cannot be resolved now"),
        ("Connection refused", "connection refused"),
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not one that the kubeconfig trusts"),
        ("timed out", "it does not answer in time"),
    ):
        if sign in text:
            return words
    return " ".join(text.split())[-200:]


def _is_about(event: Json, run: str) -> bool:
    """A RayJob and its submitter Job are called like the run; RayClusters and pods have five characters more behind."""
    about = event.get("involvedObject") or {}
    kind, name = about.get("kind"), about.get("name", "")
    if kind in ("RayJob", "Job"):
        return bool(name == run)
    made = rf"{re.escape(run)}-[a-z0-9]{{5}}" + ("(-.*)?" if kind == "Pod" else "")
    return kind in ("RayCluster", "Pod") and re.fullmatch(made, name) is not None


def _moment(event: Json) -> str:
    """When an event was last seen; each of three generations of reporters fills in another field."""
    series = event.get("series") or {}
    for found in (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime")):
        if found:
            return str(found)
    return str((event.get("metadata") or {}).get("creationTimestamp") or "")
