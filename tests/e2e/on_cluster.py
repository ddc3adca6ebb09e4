"""What the end-to-end tests share: a namespace as its administrator and its user have it, and how to wait."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("teddy-cloud")
ENDPOINT = os.environ.get("TEDDY_E2E_ENDPOINT", "")
PUBLIC_ENDPOINT = os.environ.get("TEDDY_E2E_PUBLIC_ENDPOINT") or ENDPOINT
NEEDED = ("KUBECONFIG", "TEDDY_E2E_IMAGE", "TEDDY_E2E_STORE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

SMALL = {
    "data.source": "digits",
    "data.classes": 4,
    "data.per_class": 40,
    "base.epochs": 2,
    "base.batch_size": 32,
    "base.warmup_epochs": 0.5,
    "base.threads": 1,
    "pool.kind": "post",
    "pool.size": 2,
    "distill.models_per_step": 1,
    "distill.iterations": 20,
    "distill.unit_images": 4,
    "distill.checkpoint_seconds": 1.0,
    "relabel.views": 3,
    "evaluate.students": ["convnet"],
    "evaluate.seeds": 1,
    "evaluate.epochs": 3,
    "evaluate.regimes": ["views"],
    "evaluate.controls": ["random", "coreset"],
}
"""A run of seconds, in which every stage has work."""


def settings_of(spec):
    """``--set`` for every setting of a dictionary by dotted names."""
    return [part for key, value in spec.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def run(*command, check=True, given=None, seconds=600, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        input=given, capture_output=True, text=True, check=False, timeout=seconds, env={**os.environ, **environment},
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def until(found, seconds=600.0, *, every=1.0):
    """What ``found()`` gives, once it is something."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not come to be in time"
        time.sleep(every)
    return value


@dataclass(frozen=True)
class Namespace:
    """A namespace as an administrator (kubectl, helm) and as its user (teddy_cloud) have it."""

    name: str
    store: str
    kubeconfig: Path
    folder: Path

    def kubectl(self, *arguments, **more):
        return run("kubectl", "-n", self.name, *arguments, **more)

    def teddy_cloud(self, *arguments, check=True, **more):
        """The command, which talks to the cluster as the user, and to the store with the machine's own keys."""
        return run(COMMAND, *arguments, "--namespace", self.name, check=check, KUBECONFIG=str(self.kubeconfig), **more)

    def submit(self, spec, *arguments, workers=2):
        """Submit; the run's name."""
        size = ["--gpus", "0", "--workers", str(workers)]
        said = self.teddy_cloud("submit", *settings_of(spec), *size, *arguments, "--json").stdout
        return json.loads(said)["run"]

    def status(self, run):
        return json.loads(self.teddy_cloud("status", run, "--json").stdout)

    def stage(self, run, name):
        """How far a stage is: 0 to 1."""
        found = [stage for stage in self.status(run).get("stages") or [] if stage["stage"] == name]
        return found[0]["share"] if found else 0.0

    def wait(self, run, *states, seconds=900):
        """The run's status in one of these states, which it must come to."""

        def there():
            seen = self.status(run)
            assert seen["state"] in states or seen["state"] not in ("failed", "invalid", "cancelled"), seen
            return seen if seen["state"] in states else None

        return until(there, seconds, every=5.0)  # asking takes half a core, which the run needs

    def pods(self, run, role):
        found = self.kubectl("get", "pods", "-l", f"teddy-cloud/run={run},teddy-cloud/role={role}", "-o", "json").stdout
        return json.loads(found)["items"]

    def pull(self, run):
        """The run's results.json, after everything was pulled and verified."""
        out = self.folder / f"{run}-{secrets.token_hex(3)}"
        self.teddy_cloud("pull", run, out)
        return json.loads((out / "results.json").read_text())


def require():
    """Skip, and say why, where there is no cluster to test on."""
    missing = [f"{name} is not set" for name in NEEDED if not os.environ.get(name)]
    missing += [f"{name} is not installed" for name in ("kubectl", "helm") if not shutil.which(name)]
    if missing:
        pytest.skip("; ".join(missing))


def install(namespace, store, verb="install", **values):
    """The chart with the values that this cluster needs, and ``values`` in the place of theirs."""
    chosen = {
        "store": {
            "uri": store,
            "endpoint": ENDPOINT,
            "publicEndpoint": PUBLIC_ENDPOINT,
            "region": os.environ.get("AWS_DEFAULT_REGION", ""),
            "secretName": "teddy-cloud-s3",
        },
        "image": os.environ["TEDDY_E2E_IMAGE"],
        "imagePullPolicy": "Always",
        "head": {"cpu": "100m", "memory": "3Gi"},
        "worker": {"cpu": "100m", "memory": "2560Mi", "sharedMemory": "256Mi"},
        "job": {"drainSeconds": 10},
        "users": {"users": [f"system:serviceaccount:{namespace}:ada"]},
        **values,
    }
    chart = ROOT / "helm" / "teddy-cloud"
    return run("helm", verb, "teddy", chart, "-n", namespace, "-f", "-", given=json.dumps(chosen))


def user_kubeconfig(namespace, path):
    """The kubeconfig of a service account, which stands for a user: her rights are what the chart gives."""
    run("kubectl", "-n", namespace, "create", "serviceaccount", "ada")
    token = run("kubectl", "-n", namespace, "create", "token", "ada", "--duration=3h").stdout.strip()
    config = yaml.safe_load(run("kubectl", "config", "view", "--raw", "--minify", "--flatten").stdout)
    config["users"][0]["user"] = {"token": token}
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
