"""A bad network: an HTTP proxy before an S3 server, which loses, breaks, slows and repeats what it should pass on.

    with Proxy("http://127.0.0.1:7071", seed=0, share=0.5) as proxy:    # of the requests, half meet a fault
        ...                                                             # proxy.endpoint, proxy.injected

``proxy.answers`` is asked first: S3's answer (status, code) to a Request, or None to pass it on.
"""

import email.utils
import http.client
import random
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

FAULTS = (
    "reset before", "reset after", "burst of 500", "burst of 503", "500 after", "slow body", "truncated body",
    "duplicated", "clock skew",
)  # fmt: skip
"""before and after: the request is, or is not, carried out all the same."""


@dataclass
class Request:
    line: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def method(self):
        return self.line.split()[0]

    @property
    def path(self):
        return self.line.split()[1]

    def has(self, header):
        return any(name.lower() == header for name, _ in self.headers)


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Proxy:
    def __init__(self, upstream, *, seed=0, share=0.0):
        self.upstream = urlsplit(upstream).netloc
        self.dice, self.share = random.Random(seed), share
        self.injected, self.requests = Counter(), Counter()
        self.answers = lambda _request: None
        self._bursts = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._serve)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, connection, *_):
        """One client's connection, request after request."""
        stream = connection.makefile("rb")
        try:
            while (request := _read(stream, connection)) is not None and self._handle(request, connection):
                pass
        except OSError:
            pass  # the client has gone
        finally:
            stream.close()

    def _draw(self, _request):
        """The fault for a request, or None."""
        with self._lock:
            fault = self._bursts.pop() if self._bursts else None
            if fault is None and self.dice.random() < self.share:
                fault = self.dice.choice(FAULTS)
                if fault.startswith("burst"):
                    self._bursts = [fault] * self.dice.randrange(5)
            if fault:
                self.injected[fault] += 1
        return fault

    def _handle(self, request, connection):
        """Whether the connection is still good afterwards."""
        with self._lock:
            self.requests[request.method] += 1
        if (said := self.answers(request)) is not None:
            return _write(connection, request, _said(*said))
        fault = self._draw(request)
        if fault == "reset before":
            return _reset(connection)
        if fault in {"burst of 500", "burst of 503"}:
            return _write(
                connection, request, _said(*{"5": (500, "InternalError")}.get(fault[-3], ()) or (503, "SlowDown"))
            )
        if fault == "duplicated":
            self._pass_on(request)
        answer = self._pass_on(request)
        if fault == "reset after":
            return _reset(connection)
        if fault == "500 after":
            return _write(connection, request, _said(500, "InternalError"))
        if fault == "clock skew":
            hours = self.dice.choice((-30, -1, 1, 30))
            answer.headers = [
                (name, _skewed(value, hours) if name == "Date" else value) for name, value in answer.headers
            ]
        return _write(connection, request, answer, fault)

    def _pass_on(self, request):
        upstream = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            upstream.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                upstream.putheader(name, value)
            upstream.endheaders(request.body)
            answer = upstream.getresponse()
            body = answer.read()
            hidden = {"transfer-encoding", "connection", "keep-alive"}
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in hidden]
            if request.method != "HEAD" and not any(name.lower() == "content-length" for name, _ in headers):
                headers.append(("Content-Length", str(len(body))))
            return Answer(answer.status, headers, body)
        finally:
            upstream.close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128


def _read(stream, connection):
    """The next request, or None at the end."""
    line = stream.readline().decode().rstrip("\r\n")
    if not line:
        return None
    headers = []
    while header := stream.readline().decode().rstrip("\r\n"):
        name, _, value = header.partition(":")
        headers.append((name, value.strip()))
    given = {name.lower(): value for name, value in headers}
    if given.get("expect") == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    headers = [(name, value) for name, value in headers if name.lower() != "expect"]
    return Request(line, headers, stream.read(int(given.get("content-length", 0))))


def _write(connection, request, answer, fault=None):
    head = f"HTTP/1.1 {answer.status} {http.client.responses.get(answer.status, 'Odd')}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in answer.headers) + "\r\n"
    body = b"" if request.method == "HEAD" else answer.body
    if fault == "truncated body":
        connection.sendall(head.encode() + body[: len(body) // 2])
        return _reset(connection) if len(body) % 2 else _close(connection)
    if fault == "slow body":
        connection.sendall(head.encode())
        for piece in range(4):
            time.sleep(0.005)
            connection.sendall(body[piece * len(body) // 4 : (piece + 1) * len(body) // 4])
        return True
    connection.sendall(head.encode() + body)
    return True


def _said(status, code):
    if status == 200:
        return Answer(status, [("ETag", code), ("Content-Length", "0")], b"")
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>AKIASECRET said so</Message></Error>'.encode()
    return Answer(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))], body)


def _reset(connection):
    """Close as a machine that has crashed does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return _close(connection)


def _close(connection):
    connection.close()
    return False


def _skewed(date, hours):
    moment = email.utils.parsedate_to_datetime(date).timestamp() + 3600 * hours
    return email.utils.formatdate(moment, usegmt=True)
