"""A real S3 server for the tests, as pytest fixtures: ``s3_uri`` is a new address in it; the environment is set for it.

The server is that of the test cluster's kit (../shared/cluster beside the checkout, or TEDDY_CLUSTER_KIT), started
alone; without a kit, the one at TEDDY_TEST_S3_ENDPOINT, with the credentials of the environment; without that, moto's.
The last lines of the test run say which.
"""

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import botocore.endpoint
import pytest
from botocore.config import Config
from faults import Proxy

from teddy_ray.store import s3_client

ROOT = Path(__file__).parents[2]
KIT = Path(os.environ.get("TEDDY_CLUSTER_KIT") or ROOT.parent / "shared" / "cluster")
ENDPOINT = os.environ.get("TEDDY_TEST_S3_ENDPOINT")
KEYS = ("teddy", "teddy-secret")
USED = pytest.StashKey[str]()


@dataclass
class Server:
    """A server that answers, and a bucket in it. ``folder``: where the kit's keeps its objects, as plain files."""

    name: str
    endpoint: str
    keys: tuple[str, str]
    folder: Path | None = None
    bucket: str = field(default_factory=lambda: f"teddy-test-{secrets.token_hex(4)}")

    @property
    def environment(self):
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.keys[0],
            "AWS_SECRET_ACCESS_KEY": self.keys[1],
            "AWS_DEFAULT_REGION": os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self):
        """A client of our own, to look in from outside."""
        return boto3.Session(*self.keys, region_name=self.environment["AWS_DEFAULT_REGION"]).client(
            "s3", endpoint_url=self.endpoint, config=Config(s3={"addressing_style": "path"})
        )


@pytest.fixture(scope="session")
def s3_server(pytestconfig, tmp_path_factory):
    """The server, with its bucket made, and emptied afterwards where it outlives the tests."""
    with _server(tmp_path_factory.mktemp("s3")) as server:
        pytestconfig.stash[USED] = server.name
        client = server.client()
        client.create_bucket(Bucket=server.bucket)
        yield server
        if server.name == ENDPOINT:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=server.bucket):
                for item in page.get("Contents", []):
                    client.delete_object(Bucket=server.bucket, Key=item["Key"])
            client.delete_bucket(Bucket=server.bucket)


@pytest.fixture
def s3_uri(s3_server, s3_settings):  # noqa: ARG001 - which sets the environment
    """An address that nothing is at."""
    return f"s3://{s3_server.bucket}/{secrets.token_hex(6)}"


@pytest.fixture
def another_machine(monkeypatch, tmp_path):
    """A function: from now on, nothing that this machine has made or fetched is at hand."""
    return lambda: monkeypatch.setenv("TEDDY_CACHE", str(tmp_path / f"cache-{secrets.token_hex(4)}"))


@pytest.fixture
def s3_settings(s3_server, monkeypatch, tmp_path):
    """The environment of a user of the server; call it to change a variable, for this process's client too."""

    changed = False

    def change(**variables):
        nonlocal changed
        changed = True
        for name, value in variables.items():
            monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
        s3_client._connect.cache_clear()

    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no-such-file"))
    monkeypatch.setenv("TEDDY_CACHE", str(tmp_path / "cache"))
    yield change
    if changed:
        s3_client._connect.cache_clear()


@pytest.fixture
def hurried(monkeypatch):
    """The same patience, without its seconds."""

    class Clock:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def sleep(_):
            time.sleep(0)

    monkeypatch.setattr(botocore.endpoint, "time", Clock)
    monkeypatch.setattr(s3_client, "time", Clock)


@pytest.fixture
def s3_through(s3_server, s3_settings, hurried):  # noqa: ARG001 - which takes the seconds out
    """Has this process's client go through a Proxy, as if the server had answered it before."""

    def start(**options):
        proxy = Proxy(s3_server.endpoint, **options)
        s3_settings(AWS_ENDPOINT_URL_S3=proxy.endpoint)
        s3_client.expect_server()
        return proxy

    return start


def pytest_terminal_summary(terminalreporter, config):
    used = config.stash.get(USED, None)
    terminalreporter.write_line(f"S3 server: {used or 'no test has asked for one'}")


@contextmanager
def _server(folder):
    if (KIT / "s3").exists():
        port = _free_port()
        with _process([KIT / "s3", folder, str(port)], f"http://127.0.0.1:{port}/healthz", folder / "log"):
            yield Server(f"versitygw of {KIT}", f"http://127.0.0.1:{port}", KEYS, folder / "data")
    elif ENDPOINT:
        session = boto3.Session().get_credentials()
        yield Server(ENDPOINT, ENDPOINT, (session.access_key, session.secret_key))
    elif importlib.util.find_spec("moto"):
        port = _free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with _process(command, f"http://127.0.0.1:{port}/moto-api/", folder / "log"):
            yield Server("moto's", f"http://127.0.0.1:{port}", KEYS)
    else:
        pytest.fail("no S3 server: set TEDDY_CLUSTER_KIT or TEDDY_TEST_S3_ENDPOINT, or install moto[server]")


@contextmanager
def _process(command, url, log):
    """A server process, from when it answers at ``url``."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "ROOT_ACCESS_KEY": KEYS[0], "ROOT_SECRET_KEY": KEYS[1]},
        )
    try:
        until = time.monotonic() + 60
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
