"""The pods of a run: head, workers and submitter, all fit for a namespace that enforces ``restricted``.

    head("digits-ipc10-teddy-0a1b2c3d", settings, env={}, spot=False)["template"]

KubeRay's own init container takes over the first container's security context, environment and mounts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teddy_cloud.cluster.quantities import mebibytes, number, times
from teddy_cloud.cluster.settings import HeadSettings, Settings, Toleration, WorkerSettings
from teddy_ray.errors import UserError

USER = 1000
"""The image's user and group."""
GRACE_AFTER_DRAIN_SECONDS = 30
"""A pod is killed this long after Ray's drain has ended by itself: the drain must be over first, and the log sent."""
OBJECT_STORE_SHARE = 0.75
"""Of /dev/shm, which torch uses too."""
SMALLEST_OBJECT_STORE = 75 * 1024**2
"""Ray refuses less."""
SUBMITTER_MEMORY = "512Mi"

SPOT = {
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
"""How Karpenter, EKS, GKE and AKS mark spot nodes: as a label, and where there is a taint, with the same words."""

Json = dict[str, Any]


def labels(run: str, role: str | None = None) -> dict[str, str]:
    """What all objects of a run carry."""
    common = {
        "app.kubernetes.io/name": "teddy-cloud",
        "app.kubernetes.io/component": "run",
        "app.kubernetes.io/managed-by": "teddy-cloud",
        "teddy-cloud/run": run,
    }
    return common if role is None else {**common, "teddy-cloud/role": role}


def head(run: str, settings: Settings, *, env: Mapping[str, str], spot: bool) -> Json:
    """The head group: it coordinates, runs the driver, and offers Ray no CPUs for work."""
    mine = settings.head
    shared = mebibytes(number(mine.memory) / 4)
    container = {
        "name": "ray-head",
        **_image(settings),
        "ports": _ports({"gcs-server": 6379, "dashboard": 8265, "metrics": 8080}),
        "env": [*_env(settings), *_plain(env)],
        "resources": _resources(mine.cpu, mine.memory),
        **_secured(shared=True),
    }
    stays = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
    return {
        "rayStartParams": _ray_start(cpus=0, shared=shared, memory=mine.memory, where="head.memory"),
        "template": {
            "metadata": {"labels": labels(run, "head"), "annotations": stays},
            "spec": {
                **_pod(settings, container, shared=shared),
                **_placed(mine, []),
                # A head on a spot node would lose the whole Ray cluster with it.
                **({"affinity": _spot_affinity("NotIn")} if spot else {}),
            },
        },
    }


def worker_group(run: str, settings: Settings, *, name: str, replicas: int, slots: int, gpu: bool, spot: bool) -> Json:
    """``replicas`` pods of ``slots`` slots each, on as many nodes as there are."""
    mine = settings.worker
    memory, shared = times(mine.memory, slots), mine.shared_memory
    container = {
        "name": "ray-worker",
        **_image(settings),
        "ports": _ports({"metrics": 8080}),
        "env": _env(settings),
        "resources": _resources(times(mine.cpu, slots), memory, gpus=slots if gpu else 0),
        **_secured(shared=True),
    }
    params = _ray_start(cpus=slots, shared=shared, memory=memory, where="worker.sharedMemory")
    return {
        "groupName": name,
        "replicas": replicas,
        "minReplicas": replicas,
        "maxReplicas": replicas,
        "rayStartParams": {**params, **({"num-gpus": str(slots)} if gpu else {})},
        "template": {
            "metadata": {"labels": labels(run, "worker")},
            "spec": {
                **_pod(settings, container, shared=shared),
                **_placed(mine, _worker_tolerations(gpu=gpu, spot=spot), gpu_type=mine.gpu_type if gpu else ""),
                "topologySpreadConstraints": [_spread(run)],
                **({"affinity": _spot_affinity("In")} if spot else {}),
            },
        },
    }


def submitter(run: str, settings: Settings) -> Json:
    """The pod that hands the entrypoint to the head and follows its log. It has no credentials of the store."""
    container = {
        "name": "ray-job-submitter",
        **_image(settings),
        "env": _plain({"HOME": "/home/ray", "RAY_USAGE_STATS_ENABLED": "0"}),
        "resources": _resources("100m", SUBMITTER_MEMORY),
        **_secured(shared=False),
    }
    pod = _pod(settings, container, shared=None)
    del pod["terminationGracePeriodSeconds"]
    return {
        "metadata": {"labels": labels(run, "submitter")},
        "spec": {"restartPolicy": "Never", **pod, **_placed(settings.head, [])},
    }


def _pod(settings: Settings, container: Json, *, shared: str | None) -> Json:
    """What all pods have. ``shared``: the size of /dev/shm, which counts as the pod's memory."""
    volumes: list[Json] = [{"name": "tmp", "emptyDir": {}}, {"name": "home", "emptyDir": {}}]
    if shared is not None:
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared}})
    pod: Json = {
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": settings.job.drain_seconds + GRACE_AFTER_DRAIN_SECONDS,
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.job.priority and not settings.job.queue:
        pod["priorityClassName"] = settings.job.priority
    return {**pod, "containers": [container], "volumes": volumes}


def _image(settings: Settings) -> Json:
    return {"image": settings.image, "imagePullPolicy": settings.image_pull_policy}


def _ports(ports: Mapping[str, int]) -> list[Json]:
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _secured(*, shared: bool) -> Json:
    """A container that cannot write its image: what it writes goes to the pod's own folders."""
    mounts = {"tmp": "/tmp", "home": "/home/ray"}  # noqa: S108 - in the pod, and its own
    if shared:
        mounts["shared-memory"] = "/dev/shm"  # noqa: S108
    return {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
    }


def _resources(cpu: str, memory: str, *, gpus: int = 0) -> Json:
    """Memory and GPUs are asked for and limited alike; a CPU limit would only slow down what is idle elsewhere."""
    fixed = {"memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {"requests": {"cpu": cpu, **fixed}, "limits": fixed}


def _ray_start(*, cpus: int, shared: str, memory: str, where: str) -> dict[str, str]:
    """Ray's view of a pod: a CPU is a slot, and the object store fits into /dev/shm."""
    if number(shared) >= number(memory):
        raise UserError(
            f"worker.sharedMemory = {shared} leaves a pod of {memory} no memory: lower it, or raise the memory"
        )
    store = int(number(shared) * OBJECT_STORE_SHARE)
    if store < SMALLEST_OBJECT_STORE:
        raise UserError(f"{where}: {shared} of shared memory is less than Ray's object store needs: raise {where}")
    return {"num-cpus": str(cpus), "object-store-memory": str(store)}


def _env(settings: Settings) -> list[Json]:
    """Of head and workers: the store's server and credentials, and how Ray behaves."""
    store = settings.store
    where = {"AWS_ENDPOINT_URL_S3": store.endpoint, "AWS_DEFAULT_REGION": store.region}
    return [
        *_plain(
            {
                "HOME": "/home/ray",
                # Ray's defaults notice a node that is lost without a word after 7 minutes.
                "RAY_grpc_client_keepalive_time_ms": "5000",
                "RAY_grpc_client_keepalive_timeout_ms": "5000",
                "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(settings.job.drain_seconds),
                # A trainer may have asked for a node before it was known to be lost; then it asks for what is left.
                "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
                # From SIGTERM to SIGKILL of a driver that is told to stop, in which it writes its last events.
                "RAY_JOB_STOP_WAIT_TIME_S": "10",
                "RAY_USAGE_STATS_ENABLED": "0",
                "OMP_NUM_THREADS": "1",
                **{name: value for name, value in where.items() if value},
            }
        ),
        *(_credentials(store.secret_name) if store.secret_name else []),
    ]


def _plain(env: Mapping[str, str]) -> list[Json]:
    return [{"name": name, "value": value} for name, value in env.items()]


def _credentials(secret: str) -> list[Json]:
    def of(key: str, **more: bool) -> Json:
        return {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, **more}}}

    return [of("AWS_ACCESS_KEY_ID"), of("AWS_SECRET_ACCESS_KEY"), of("AWS_SESSION_TOKEN", optional=True)]


def _placed(where: HeadSettings | WorkerSettings, tolerations: list[Json], *, gpu_type: str = "") -> Json:
    """On which nodes, by the administrator's word and the pod's own needs."""
    selector = {**where.node_selector, **({"nvidia.com/gpu.product": gpu_type} if gpu_type else {})}
    tolerated = [*map(_toleration, where.tolerations), *tolerations]
    return {
        **({"nodeSelector": selector} if selector else {}),
        **({"tolerations": tolerated} if tolerated else {}),
    }


def _toleration(toleration: Toleration) -> Json:
    return {name: value for name, value in toleration.model_dump().items() if value}


def _worker_tolerations(*, gpu: bool, spot: bool) -> list[Json]:
    gpus = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    spots = [{"key": key, "operator": "Equal", "value": value} for key, value in SPOT.items()]
    return [*(gpus if gpu else []), *(spots if spot else [])]


def _spot_affinity(operator: str) -> Json:
    """Towards spot nodes (``In``) or away from them (``NotIn``): a wish, since no cluster has all these labels."""
    wishes = [
        {
            "weight": 100 if operator == "NotIn" else 50,
            "preference": {"matchExpressions": [{"key": key, "operator": operator, "values": [value]}]},
        }
        for key, value in SPOT.items()
    ]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wishes}}


def _spread(run: str) -> Json:
    """Over the nodes, so that losing one costs least; but rather together than not at all."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"teddy-cloud/run": run, "teddy-cloud/role": "worker"}},
    }
