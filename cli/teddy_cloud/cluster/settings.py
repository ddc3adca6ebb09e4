"""The cluster's settings: what `helm install` left in a namespace for everybody who submits there.

    settings = Settings.validate_values(json.loads(config_map.data[CONFIG_KEY]), where="ConfigMap ml/teddy-cloud")
    settings.worker.gpus_per_node

The keys are those of the chart's values, in camelCase; a test holds its values.schema.json to this.
No secret is ever here: credentials are a Secret's name, or the service account's own identity.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from teddy_ray.errors import UserError

CONFIG_MAP = "teddy-cloud"
"""The ConfigMap's name in every namespace that has the chart."""
CONFIG_KEY = "settings.json"
TOKEN_SECRET = "teddy-cloud-ray-token"  # noqa: S105 - a Secret's name
"""The chart's Secret with Ray's token (key ``auth_token``): one name, so that a user's Role can allow just that."""

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""An amount as Kubernetes writes it: ``500m``, ``8Gi``."""


class Section(BaseModel):
    """Strict and immutable; camelCase outside, snake_case inside."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class StoreSettings(Section):
    """The bucket of the runs."""

    uri: Annotated[str, Field(pattern=r"^s3://[^/]+(/.*)?$")]
    endpoint: str = ""
    """The S3 server as pods reach it; empty: Amazon's."""
    public_endpoint: str = ""
    """The same server as users' machines reach it, where that differs."""
    region: str = ""
    secret_name: str = ""
    """A Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; empty: the service account's own identity."""


class Toleration(Section):
    """As in a pod's spec."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class HeadSettings(Section):
    """The head, which coordinates and does no work."""

    cpu: Quantity = "1"
    memory: Quantity = "4Gi"
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()


class WorkerSettings(Section):
    """A slot is a GPU, or on a CPU run a core's worth: what one model is trained on."""

    cpu: Quantity = "4"
    """A slot's."""
    memory: Quantity = "16Gi"
    """A slot's."""
    gpus_per_node: Annotated[int, Field(ge=1, le=64)] = 8
    slots_per_pod: Annotated[int, Field(ge=1, le=256)] = 1
    """On a run without GPUs: workers in a pod."""
    gpu_type: str = ""
    """The value of the node label nvidia.com/gpu.product; empty: any."""
    shared_memory: Quantity = "2Gi"
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()


class JobSettings(Section):
    """Limits and habits of a run's RayJob."""

    max_hours: Annotated[float, Field(gt=0, le=24 * 365)] = 24.0
    queue_timeout_minutes: Annotated[float, Field(gt=0, le=60 * 24 * 30)] | None = None
    """How long a run may wait for its pods before it counts as failed; none: as long as max_hours."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """New Ray clusters for a run whose cluster failed."""
    keep_minutes: Annotated[float, Field(ge=0)] = 0.0
    """How long a run's pods stay after its end, GPUs included, for a look at them. The RayJob object stays."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """What a worker has to finish in after it was told to go."""
    queue: str = ""
    """A Kueue LocalQueue."""
    priority: str = ""
    """A Kueue WorkloadPriorityClass with a queue, else a PriorityClass."""


class Prices(Section):
    """Dollars, for `plan`; 0 is unknown."""

    gpu_hour: Annotated[float, Field(ge=0)] = 0.0
    cpu_hour: Annotated[float, Field(ge=0)] = 0.0


class Settings(Section):
    """Everything that an administrator decides once."""

    store: StoreSettings
    image: Annotated[str, Field(min_length=1)]
    """Head's, workers' and submitter's; best by digest (name@sha256:…)."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str = "teddy-cloud"
    """The workload's, which can do nothing in the API."""
    spec: dict[str, Any] = {}
    """Settings of the spec by dotted name that runs of this namespace start from, before the user's own."""
    head: HeadSettings = HeadSettings()
    worker: WorkerSettings = WorkerSettings()
    job: JobSettings = JobSettings()
    prices: Prices = Prices()

    @classmethod
    def validate_values(cls, values: Any, *, where: str) -> Settings:
        """Settings from plain values. Raises UserError that names the key and ``where`` it stands."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the whole"
            raise UserError(f"{where}: {key}: {first['msg']}; the administrator sets it with helm upgrade") from error
