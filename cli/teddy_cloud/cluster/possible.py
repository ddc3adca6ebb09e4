"""What no cluster can do, refused before anything is sent.

refuse_impossible("digits-ipc1-teddy-0a1b2c3d", spec, gpus=16, workers=0)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from teddy_ray.errors import UserError
from teddy_ray.pipeline.counts import KNOWN
from teddy_ray.report.text import count

if TYPE_CHECKING:
    from teddy_ray.spec import Spec


def refuse_impossible(run: str, spec: Spec, *, gpus: int, workers: int) -> None:
    """Raises UserError for the first thing that cannot be."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", run):
        raise UserError(
            f"'{run}' cannot name a RayJob: at most 47 lower-case letters, digits and -, first a letter, last no -"
        )
    slots(gpus, workers)
    _refuse_compute(spec, gpus=gpus, slots=gpus or workers)
    refuse_local(spec)


def slots(gpus: int | None, workers: int | None) -> tuple[int, int]:
    """(GPUs, workers) that are meant. Raises UserError where neither is said, or both in conflict."""
    if gpus is None and workers is None:
        raise UserError("say how many GPUs: --gpus 16 (or, for a cluster without any: --gpus 0 --workers 4)")
    gpus = gpus or 0
    if gpus < 0 or (workers or 0) < 0:
        raise UserError("--gpus and --workers cannot be negative")
    if not gpus and not workers:
        raise UserError("--gpus 0 needs --workers N, the number of workers on CPUs")
    if gpus and workers not in (None, 0, gpus):
        raise UserError(
            f"--gpus {gpus} is {count(gpus, 'worker')}, one a GPU: leave --workers {workers} out, or give --gpus 0"
        )
    return gpus, gpus or workers or 0


def _refuse_compute(spec: Spec, *, gpus: int, slots: int) -> None:
    compute, replicas = spec.compute, spec.base.replicas
    if compute.device == "cuda" and not gpus:
        raise UserError("compute.device = 'cuda' needs GPUs: give --gpus N, or --device auto")
    if compute.device == "cpu" and gpus:
        raise UserError(
            f"compute.device = 'cpu' would leave {count(gpus, 'GPU')} idle: give --gpus 0 --workers N, or --device auto"
        )
    if compute.executor == "inline":
        raise UserError("compute.executor = 'inline' is one process, and a cluster's is Ray: leave it out")
    if replicas > slots:
        raise UserError(
            f"base.replicas = {replicas} is more than this run's {count(slots, 'worker')}, so the base would wait for"
            " ever: lower it, or ask for more"
        )


def refuse_local(spec: Spec) -> None:
    """Data and checkpoints on this machine, where no pod can read them."""
    source = spec.data.source
    kind, colon, rest = source.partition(":")
    path = rest if colon and kind in ("folder", "parquet") else source
    if source not in KNOWN and not path.startswith("s3://"):
        prefix = f"{kind}:" if path is rest else ""
        raise UserError(
            f"data.source = '{source}' is on this machine, where no pod can read it: copy it into a bucket"
            f" (aws s3 sync {path} s3://BUCKET/DATA) and give --data {prefix}s3://BUCKET/DATA"
        )
    if spec.base.checkpoint is not None:
        raise UserError(
            f"base.checkpoint = '{spec.base.checkpoint}' is a file of this machine, where no pod can read it:"
            " leave it out, and the base is trained there; or use it here, with teddy-cloud run"
        )
