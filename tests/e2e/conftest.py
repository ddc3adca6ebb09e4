"""A namespace with the chart in it, a user of it who has no other rights, and runs on this machine to compare with."""

import base64
import json
import os
import secrets
from pathlib import Path

import pytest
from on_cluster import COMMAND, PUBLIC_ENDPOINT, Namespace, install, require, run, settings_of, user_kubeconfig


@pytest.fixture(scope="module")
def ml(request, tmp_path_factory):
    """The namespace of a module's tests; its VALUES change the chart's."""
    require()
    module = request.module.__name__.rsplit(".", 1)[-1].removeprefix("test_").replace("_", "-")
    name, folder = f"teddy-{module}-{secrets.token_hex(2)}", tmp_path_factory.mktemp(module)
    store = f"{os.environ['TEDDY_E2E_STORE']}/{name}"
    keys = {key: os.environ[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    keys = getattr(request.module, "keys", lambda: keys)()
    try:
        run("kubectl", "create", "namespace", name)
        run("kubectl", "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "teddy-cloud-s3"}, "data": encoded}
        run("kubectl", "-n", name, "create", "-f", "-", given=json.dumps(secret))
        install(name, store, **getattr(request.module, "VALUES", {}))
        user_kubeconfig(name, folder / "kubeconfig")
        yield Namespace(name, store, folder / "kubeconfig", folder)
    finally:
        run("kubectl", "-n", name, "delete", "rayjobs", "--all", "--timeout=180s", check=False)
        run("kubectl", "delete", "namespace", name, "--ignore-not-found", "--timeout=180s", check=False)


@pytest.fixture(scope="session")
def kit():
    """The test cluster's folder."""
    if not os.environ.get("TEDDY_E2E_KIT"):
        pytest.skip("TEDDY_E2E_KIT is not set: only the test cluster can lose a node or offer GPUs that do not exist")
    return Path(os.environ["TEDDY_E2E_KIT"])


@pytest.fixture(scope="session")
def local_results(tmp_path_factory):
    """results.json of ``teddy-cloud run`` on this machine, by the spec; each spec is carried out once."""
    store, known = tmp_path_factory.mktemp("local"), {}

    def results(spec):
        key = json.dumps(spec)
        if key not in known:
            done = run(
                COMMAND, "run", "--store", store, *settings_of(spec), "--json", AWS_ENDPOINT_URL_S3=PUBLIC_ENDPOINT
            )
            known[key] = json.loads(done.stdout)
        return known[key]

    return results
