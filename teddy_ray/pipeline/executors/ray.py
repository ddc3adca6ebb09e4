"""Tasks on Ray: TorchTrainer workers with one queue, actors with leased tasks, plain tasks.

A worker is given the spec's text, the store's address and a task; what it makes goes to the store, never through Ray.
Whatever a worker says goes to the hub, an actor that the driver empties twice a second.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import ray
import ray.train
from ray.exceptions import RayError, RayTaskError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import ActorPool
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline.context import Context, Task
from teddy_ray.pipeline.events import Event, Stage
from teddy_ray.pipeline.executors.base import Part, Work, carry_out
from teddy_ray.pipeline.memory import keep_freed
from teddy_ray.pipeline.metrics import publish_traffic
from teddy_ray.pipeline.names import run_name
from teddy_ray.pipeline.settle import device_name, settle
from teddy_ray.pipeline.shared import Hub, Queue
from teddy_ray.spec import Spec
from teddy_ray.store import open_store, records
from teddy_ray.store.arrow import lent
from teddy_ray.store.leftovers import LENT

Handle = Any
"""Ray types an actor's handle by a class whose methods it replaces; no checker follows that."""

RETRIES = 3
"""How often a task whose process was lost is tried again. Errors of the task itself are not."""
CLUSTER_RETRIES = 100
"""The same on a cluster, where machines come and go, and the job has a deadline."""


@dataclass(frozen=True)
class Site:
    """Which Ray: one of this machine, started for the run, or the cluster that this process is a job of. ``gpus``: a
    worker's slot is a GPU (whether torch can use it or not), else a CPU."""

    cluster: bool
    gpus: bool

    @property
    def retries(self) -> int:
        return CLUSTER_RETRIES if self.cluster else RETRIES

    @property
    def slot(self) -> dict[str, Any]:
        """What a task or actor asks of Ray."""
        return {"num_gpus": 1, "num_cpus": 0} if self.gpus else {"num_cpus": 1}

    def connect(self, slots: int) -> None:
        """Ray, at the first call, with as many slots if it is ours to start."""
        if ray.is_initialized():
            return
        # Our numbers of threads are the spec's, and Ray's accelerator probe would log once a worker.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Workers stay where the driver is: a relative path must be the same for both.
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
        with _own_signals():
            if self.cluster:
                ray.init(address="auto", **quiet)
                return
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            # "local", not the default: a stale file of another Ray on this machine would be connected to.
            ray.init(address="local", num_cpus=slots, include_dashboard=False, **quiet)


def settle_there(spec: Spec, site: Site) -> tuple[Spec, str]:
    """The spec without an "auto", as a worker's machine answers, and the name of its device: the driver's machine may
    have no accelerator. Waits for the first worker."""
    site.connect(spec.compute.workers)
    try:
        settled, name = ray.get(ray.remote(max_retries=site.retries, **site.slot)(_settle).remote(spec.to_json()))
    except RayTaskError as error:
        raise _cause(error) from None
    return Spec.from_json(settled), name


def _settle(spec: str) -> tuple[str, str]:
    settled = settle(Spec.from_json(spec))
    return settled.to_json(), device_name(settled.compute.device)


OWN = ("unit", "student", "checkpoint")
"""Stages whose records are many, and of use to the driver alone or to few workers."""


@dataclass(frozen=True)
class Order:
    """All that a worker needs to make its own Context."""

    spec: str
    store: str
    data_digest: str
    hub: Handle
    stage: Stage | None
    work: Work
    known: Handle = None
    """Of a store elsewhere, a reference to the records that the driver has seen: nobody need ask for them again."""

    def carry_out(self, context: Context, task: Task) -> None:
        for record in [] if self.known is None else ray.get(self.known):
            records.remember(context.store, record)
        carry_out(self.work, context, self.stage, task)
        made = None if self.known is None else records.find(context.store, task.stage, task.digest)
        if made is not None and context.rank == 0:
            ray.get(self.hub.keep.remote(made.to_json()))
        publish_traffic()

    def say(self, event: Event) -> None:
        """Waits until the hub has it: what a task said is there when the task is done."""
        ray.get(self.hub.push.remote(event))

    def context(self, *, rank: int = 0, replicas: int = 1) -> Context:
        keep_freed()
        return Context(
            spec=Spec.from_json(self.spec),
            store=open_store(self.store, known=True),
            emit=self.say,
            data_digest=self.data_digest,
            rank=rank,
            replicas=replicas,
        )


def do(order: Order, task: Task) -> None:
    """One task, in whatever process is free."""
    order.carry_out(_context_of_process(order), task)


class Worker:
    """An actor, whose process keeps its context, and so data and models, between tasks."""

    def do(self, order: Order, task: Task) -> None:
        do(order, task)


class RayExecutor:
    """An Executor on Ray, which is connected to for the first task and left, or shut down, at the end."""

    def __init__(self, context: Context, site: Site) -> None:
        self.context, self.site = context, site
        self._hub: Handle | None = None
        self._stop = threading.Event()
        self._poller: threading.Thread | None = None
        self._poller_failure: Exception | None = None

    def run(self, stage: Stage, work: Work, tasks: Sequence[Task], *, part: Part, replicas: int = 1) -> None:
        if tasks:
            self._carry_out(self._order(stage, work), tasks, part, replicas)

    def once(self, work: Work, task: Task) -> None:
        self._carry_out(self._order(None, work), [task], Part.TASKS, 1)

    def _carry_out(self, order: Order, tasks: Sequence[Task], part: Part, replicas: int) -> None:
        try:
            if part is Part.TRAINER:
                self._train(order, tasks, replicas)
            elif part is Part.ACTORS:
                self._act(order, tasks)
            else:
                self._spread(order, tasks)
        except RayTaskError as error:
            raise _cause(error) from None
        except (RayError, TrainingFailedError) as error:
            raise _lost(error, order.stage or tasks[0].name) from error
        self._forward()
        for record in ray.get(order.hub.kept.remote()):
            records.remember(self.context.store, record)
        if self._poller_failure is not None:
            raise self._poller_failure

    def _order(self, stage: Stage | None, work: Work) -> Order:
        context, hub = self.context, self._start()
        known = ray.put(records.seen(context.store, but=OWN)) if context.store.local_path("artifacts") is None else None
        return Order(context.spec.to_json(), context.store.uri, context.data_digest, hub, stage, work, known)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._poller is not None:
            self._poller.join()
        ray.shutdown()

    def _start(self) -> Handle:
        """Ray, on first use; the hub, and a thread that empties it."""
        if self._hub is None:
            self.site.connect(max(self.context.spec.compute.workers, self.context.spec.base.replicas))
            self._hub = _beside_driver(Hub).remote()
            self._poller = threading.Thread(target=self._poll, name="events", daemon=True)
            self._poller.start()
        return self._hub

    def _poll(self) -> None:
        try:
            while not self._stop.wait(0.5):
                self._forward()
        # A full disk, a key revoked, or the hub lost: for the main thread to tell.
        except (UserError, WorldError, RayError) as error:
            self._poller_failure = error

    def _forward(self) -> None:
        if self._hub is not None:
            for event in ray.get(self._hub.drain.remote()):
                self.context.emit(event)

    def _spread(self, order: Order, tasks: Sequence[Task]) -> None:
        remote = ray.remote(max_retries=self.site.retries, **self.site.slot)(do)
        _wait([remote.remote(order, task) for task in tasks])

    def _act(self, order: Order, tasks: Sequence[Task]) -> None:
        count, retries = min(self.context.spec.compute.workers, len(tasks)), self.site.retries
        make: Handle = ray.remote(max_restarts=retries, max_task_retries=retries, **self.site.slot)(Worker)
        actors = [make.remote() for _ in range(count)]
        pool = ActorPool(actors)
        for _ in pool.map_unordered(lambda actor, task: actor.do.remote(order, task), list(tasks)):
            pass
        for actor in actors:
            ray.kill(actor)

    def _takers(self, tasks: int) -> Any:
        """How many workers take tasks from one queue. On a cluster those that are there begin: nobody waits for a pod
        that is late, or was lost with its machine. Ray takes a pair for that, which its type does not say."""
        count = min(self.context.spec.compute.workers, tasks)
        return (1, count) if self.site.cluster and count > 1 else count

    def _train(self, order: Order, tasks: Sequence[Task], replicas: int) -> None:
        """A TorchTrainer whose workers share each task (``replicas`` > 1) or take tasks from one queue.

        What it keeps for itself is in the store, since its workers may be on other machines.
        """
        cuda = self.context.spec.compute.device == "cuda"
        workers = replicas if replicas > 1 else self._takers(len(tasks))
        queue: Handle = _beside_driver(Queue).remote(len(tasks))
        name = f"{LENT}{run_name(self.context.spec)}/{uuid.uuid4().hex}"
        with lent(self.context.store, name) as (files, path):
            _Trainer(
                _replicate if replicas > 1 else _take_turns,
                train_loop_config={"order": order, "tasks": list(tasks), "queue": queue},
                torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=workers,
                    use_gpu=self.site.gpus,
                    resources_per_worker={"GPU": 1, "CPU": 0} if self.site.gpus else {"CPU": 1},
                ),
                # Our records are the checkpoints: a restarted group finds there what is done.
                run_config=RunConfig(
                    name="train",
                    storage_path=path,
                    storage_filesystem=files,
                    failure_config=FailureConfig(max_failures=self.site.retries),
                ),
            ).fit()
        if (failure := ray.get(queue.failed.remote())) is not None:
            raise failure


def _beside_driver(kind: type[Hub] | type[Queue]) -> Handle:
    """An actor class whose process stays on the driver's machine: workers' machines may be lost, and with this one the
    run ends anyway."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(kind).options(scheduling_strategy=here)


class _Trainer(TorchTrainer):
    def _register_sigint_handler(self, controller: Handle) -> None:
        """Not: Ray's handler asks the controller to stop, which listens only once its workers have started, and stays
        when the trainer has ended. A KeyboardInterrupt ends all of this Ray within seconds."""


@contextmanager
def _own_signals() -> Iterator[None]:
    """For Ray's start. Its handler of SIGTERM prints a C++ stack and aborts the process three seconds later, amid the
    shutdown: ours is put back. A KeyboardInterrupt amid its forks would be lost: SIGINT waits until they are over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    waiting: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        signal.raise_signal(signal.SIGINT)


def _replicate(config: dict[str, Any]) -> None:
    """A replica's part of data-parallel training. One that fails ends its group, which would wait for it for ever; the
    next group finds the failure and does nothing."""
    of, queue = ray.train.get_context(), config["queue"]
    context = config["order"].context(rank=of.get_world_rank(), replicas=of.get_world_size())
    if ray.get(queue.failed.remote()) is not None:
        return
    with _telling(queue):
        for task in config["tasks"]:
            config["order"].carry_out(context, replace(task, begun=True))  # perhaps by a group that is gone


def _take_turns(config: dict[str, Any]) -> None:
    """A worker of the group: tasks from the queue until there are none, or one has failed."""
    context, queue = config["order"].context(), config["queue"]
    placed = ray.util.get_current_placement_group()
    assert placed is not None, "a trainer's workers always have one"
    ray.get(queue.join.remote(placed.id.hex(), ray.train.get_context().get_world_rank()))
    with suppress(_ToldError), _telling(queue):
        while (taken := ray.get(queue.take.remote())) is not None:
            number, again = taken
            task = config["tasks"][number]
            config["order"].carry_out(context, replace(task, begun=task.begun or again))


class _ToldError(Exception):
    """A task failed, and the queue knows how."""


@contextmanager
def _telling(queue: Handle) -> Iterator[None]:
    """Tell the queue how a task failed, which a trainer would only try again. Lost processes are Ray's to mend."""
    try:
        yield
    except RayError:
        raise
    except Exception as error:
        told = error if isinstance(error, UserError | WorldError) else RuntimeError(traceback.format_exc())
        ray.get(queue.fail.remote(told))
        raise _ToldError from error


def _wait(references: Sequence[Any]) -> None:
    """Until all are done; the first failure is raised as soon as it is known."""
    left = list(references)
    while left:
        done, left = ray.wait(left)
        ray.get(done)


def _cause(error: RayTaskError) -> BaseException:
    """What the task itself raised, where it is ours to tell; anything else with Ray's account of it."""
    inner = error.cause
    return type(inner)(str(inner)) if isinstance(inner, UserError | WorldError) else error


def _lost(error: RayError | TrainingFailedError, stage: str) -> Exception:
    """What to tell of processes that were lost too often; the error itself where the code in them failed."""
    failures = _failures(error)
    if not all(type(failure).__module__.startswith("ray.") for failure in failures):
        return error
    if any("low on memory" in str(failure) for failure in failures):  # Ray's words; not all such errors have a type
        return WorldError(
            f"{stage} needs more memory than a worker's machine has: lower compute.workers or batch sizes, or give"
            " workers more (on a cluster the chart's worker.memory); what is finished is kept"
        )
    said = " ".join(str(failures[0]).split())[:200]
    return WorldError(
        f"{stage} lost its processes more often than it tries again, or Ray itself (Ray says: {said}): where memory is"
        " short, the system kills the largest process; lower compute.workers or, on a cluster, raise the chart's"
        " worker.memory or head.memory, and run the same command again, what is finished is kept"
    )


def _failures(error: RayError | TrainingFailedError) -> list[BaseException]:
    """What a trainer's workers, or its controller, ended with."""
    if isinstance(error, WorkerGroupError):
        return list(error.worker_failures.values())
    return [error.controller_failure] if isinstance(error, ControllerError) else [error]


_contexts: dict[tuple[str, str, str], Context] = {}


def _context_of_process(order: Order) -> Context:
    """A worker process serves many tasks, and reads data and models once."""
    key = (order.spec, order.store, order.data_digest)
    if key not in _contexts:
        _contexts.clear()
        _contexts[key] = order.context()
    return _contexts[key]
