"""A run whose store is in S3 makes what it makes in a folder, with as many requests as it has artifacts."""

import pytest

from teddy_ray.store import open_store, records

STAGES = ("data", "checkpoint", "base", "member", "unit", "images", "labels", "student", "report")
A_RECORD = 3
THE_RUN_ITSELF = 30
"""The probe, and the run's folder: spec, what it claims, a copy of each published file, manifest."""


@pytest.fixture
def through_proxy(s3_uri, s3_through):
    """The address of a store, and the proxy that counts what is asked of it."""
    with s3_through() as proxy:
        yield s3_uri, proxy


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_a_run_in_s3_equals_one_in_a_folder(teddy_cloud, reference, through_proxy, another_machine, executor):
    uri, proxy = through_proxy
    by_ray = []
    proxy.answers = lambda request: by_ray.append(request.method) if "/ray-train/" in request.path else None
    settings = [f"compute.executor={executor}", "compute.workers=2", "distill.checkpoint_seconds=60"]
    done = teddy_cloud.run(uri, *settings)
    reference.assert_equal(done.results())
    requests = proxy.requests.copy()
    store = open_store(uri)
    another_machine()
    made = [record for stage in STAGES for record in records.find_all(store, stage)]
    for record in made:
        for file in record.files.values():
            assert len(records.read(store, file)) == file.size
    allowed = THE_RUN_ITSELF + A_RECORD * len(made) + done.seconds
    assert requests.total() <= allowed, requests
    keys = [item.key for item in store.bucket.list(f"{store.prefix}/")]
    assert not [key for key in keys if key.endswith("/") or "/probe/" in key or "/ray-train/" in key]
    assert ("PUT" in by_ray) == (executor == "ray")  # what ray.train keeps for itself
    again = teddy_cloud.results(uri, *settings)
    assert again["reused"]["stages"] == ["data", "base", "pool", "distill", "relabel", "evaluate"]
