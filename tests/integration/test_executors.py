"""One answer from every executor; and what goes wrong in a worker, told by the driver."""

import json
import subprocess
import sys


def test_ray_makes_the_same_bytes(teddy_cloud, reference, store):
    """With one worker; with two, test_s3_run sees it."""
    results = teddy_cloud.results(store, "compute.executor=ray", "compute.workers=1")
    assert results["reused"] == {"stages": [], "units": []}
    reference.assert_equal(results)


def test_inline_never_imports_ray(teddy_cloud, reference, store, tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('no Ray here')")
    reference.assert_equal(teddy_cloud.results(store, PYTHONPATH=str(tmp_path)))


def test_replicas_train_one_base_together_and_it_is_kept(teddy_cloud, store):
    """One worker is asked for, and yet the two replicas find room."""
    real_images = ("distill.init=real", "distill.iterations=0")
    base_alone = ("pool.kind=none", "distill.match=base", "relabel.labellers=base")
    settings = ("base.replicas=2", *real_images, *base_alone)
    first = teddy_cloud.results(store, *settings)
    again = teddy_cloud.results(store, *settings)
    assert first["reused"]["stages"] == []
    assert again["reused"]["stages"] == ["data", "base", "distill", "relabel", "evaluate"]
    assert again["digests"] == first["digests"]


FAILING = """
import json, os, signal, sys
import torch
from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline.context import Context, Task
from teddy_ray.pipeline.executors import Part, executor
from teddy_ray.pipeline.settle import settle
from teddy_ray.spec import Spec
from teddy_ray.store import open_store

def fail(context, task):
    raise WorldError(f"{task.name} in {os.getcwd()}")

def fail_while_the_other_replica_waits(context, task):
    if context.rank == 0:
        raise UserError("the first replica")
    torch.distributed.barrier()

def die(context, task):
    os.kill(os.getpid(), signal.SIGKILL)

def say(context, task):
    context.progress("distill", task.name, 1, 2)
    context.progress("distill", task.name, 2, 2)

def full(event):
    raise WorldError("the journal's disk is full")

def told(workers, work, name, **how):
    try:
        workers.run("distill", work, [Task("unit", "0" * 64, name)], **how)
    except (UserError, WorldError) as error:
        with open(sys.argv[2], "a") as file:
            print(json.dumps([type(error).__name__, str(error)]), file=file)

compute = {"executor": "ray", "workers": 2, "device": "cpu"}
context = Context(settle(Spec.model_validate({"compute": compute})), open_store(sys.argv[1]), lambda event: None)
with executor(context) as workers:
    for part in Part:
        told(workers, fail, part.value, part=part)
    told(workers, fail_while_the_other_replica_waits, "replicas", part=Part.TRAINER, replicas=2)
    told(workers, die, "lost", part=Part.TASKS)
    context.emit = full
    told(workers, say, "events", part=Part.TASKS)
"""


def test_what_a_worker_raises_is_told_as_it_was_raised(store, tmp_path):
    """By every part of Ray. Workers work where the driver does, so that a relative path is the same for both."""
    command = [sys.executable, "-c", FAILING, store, tmp_path / "told"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=280)
    expected = [["WorldError", f"{part} in {tmp_path}"] for part in ("trainer", "actors", "tasks")]
    expected += [["UserError", "the first replica"]]
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert told[:4] == expected, done.stderr
    assert told[4][1].startswith("distill lost its processes more often than it tries again, or Ray itself (Ray says: ")
    assert told[5:] == [["WorldError", "the journal's disk is full"]]
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
