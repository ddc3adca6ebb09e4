"""A run whose store is in S3 makes what it makes in a folder, with as many requests as it has artifacts."""

import pytest

from teddy_ray.store import open_store, records

STAGES = ("data", "checkpoint", "base", "member", "unit", "images", "labels", "student", "report")
A_RECORD = {"inline": 3, "ray": 5}
"""On Ray each process looks for itself whether a task is done, and reads the records that it works with."""
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
    allowed = THE_RUN_ITSELF + A_RECORD[executor] * len(made) + done.seconds
    assert requests.total() <= allowed, requests
    assert not list(store.list("probe/"))
    again = teddy_cloud.results(uri, *settings)
    assert again["reused"]["stages"] == ["data", "base", "pool", "distill", "relabel", "evaluate"]
