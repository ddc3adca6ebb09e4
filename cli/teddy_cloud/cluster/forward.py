"""A way to a port of a pod through the Kubernetes API, as ``kubectl port-forward`` makes it, on 127.0.0.1 alone.

status, body = request(cluster, pod, 8265, method="POST", path="/api/jobs/…/stop", headers=headers)

with Forwarder(cluster, pod, 8265, local_port=8265) as forwarder:
    forwarder.wait()
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from teddy_cloud.cluster.api import READ_SECONDS
from teddy_cloud.cluster.refusals import refusal
from teddy_ray.errors import UserError, WorldError

if TYPE_CHECKING:
    from teddy_cloud.cluster.api import Cluster

CHUNK = 2**16


def connect(cluster: Cluster, pod: str, port: int) -> Any:
    """A connected socket to ``port`` of ``pod``."""
    from kubernetes.client import ApiException
    from kubernetes.stream.ws_client import portforward_call

    configuration = cluster.access.configuration
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod}/portforward"
    headers = {**cluster.credentials(), "sec-websocket-protocol": "v4.channel.k8s.io"}
    try:
        forward = portforward_call(
            configuration,
            "GET",
            configuration.host.rstrip("/") + path,
            query_params=[("ports", str(port))],
            headers=headers,
        )
    except ApiException as error:
        raise _explained(cluster, pod, str(error.reason)) from error
    return forward.socket(port)


def request(
    cluster: Cluster, pod: str, port: int, *, method: str, path: str, headers: Mapping[str, str]
) -> tuple[int, bytes]:
    """One HTTP request to a pod: the answer's status and body. Raises WorldError where none comes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READ_SECONDS)
    connection.sock = connect(cluster, pod, port)
    connection.sock.settimeout(READ_SECONDS)
    try:
        connection.request(method, path, headers={**headers, "Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise WorldError(f"port {port} of pod {pod} does not answer ({reason}): is Ray up there yet?") from error
    finally:
        connection.close()


class Forwarder:
    """Passes every connection to ``local_port`` of this machine on to ``port`` of a pod."""

    def __init__(self, cluster: Cluster, pod: str, port: int, *, local_port: int) -> None:
        self.cluster, self.pod, self.port = cluster, pod, port
        try:
            self._listener = socket.create_server(("127.0.0.1", local_port))
        except OSError as error:
            raise UserError(
                f"port {local_port} of this machine cannot be used ({error.strerror}): give another with --port"
            ) from error
        self.local_port: int = self._listener.getsockname()[1]
        self.trouble: UserError | WorldError | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        connect(self.cluster, self.pod, self.port).close()  # what does not work is said now, not in the browser
        threading.Thread(target=self._accept, name="forward", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.close()

    def wait(self) -> None:
        """Until a connection to the pod can no longer be made, which is raised."""
        self._ended.wait()
        if self.trouble:
            raise self.trouble

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed by __exit__
                return
            threading.Thread(target=self._carry, args=(near,), name="forward", daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near:
            try:
                far = connect(self.cluster, self.pod, self.port)
            except (UserError, WorldError) as error:
                self.trouble = error
                self._ended.set()
                return
            back = threading.Thread(target=_pump, args=(far, near), name="forward", daemon=True)
            back.start()
            _pump(near, far)
            back.join()
            far.close()


def _pump(source: Any, target: Any) -> None:
    """Bytes from one socket to the other until either closes; then the other is told."""
    with suppress(OSError):  # a side that has gone leaves nothing to carry
        while chunk := source.recv(CHUNK):
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _explained(cluster: Cluster, pod: str, reason: str) -> UserError | WorldError:
    """The sentence for a WebSocket that was not opened; the client has folded the server's answer into a text."""
    if found := re.search(r"Handshake status (\d+)", reason):
        status = int(found[1])
        body = re.search(r"-\+-\+- b?['\"]?(\{.*\})", reason, re.DOTALL)
        said = (
            body[1].encode() if body else json.dumps({"message": f"answer {status}", "details": {"name": pod}}).encode()
        )
        return refusal(status, said, doing=f"reach a port of pod {pod}", where=cluster.where)
    return WorldError(f"pod {pod} cannot be reached through the cluster's API ({' '.join(reason.split())}): try again")
