"""Flags of the command line that stand in for a setting of the namespace, for one run.

changed(settings, {"--gpus-per-node": 4, "--queue": None}).worker.gpus_per_node     # 4; None was not given
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from teddy_cloud.cluster.settings import Settings
from teddy_ray.errors import UserError

FLAGS: Final = {
    "--image": ("image",),
    "--gpus-per-node": ("worker", "gpusPerNode"),
    "--gpu-type": ("worker", "gpuType"),
    "--max-hours": ("job", "maxHours"),
    "--queue-timeout": ("job", "queueTimeoutMinutes"),
    "--queue": ("job", "queue"),
    "--priority": ("job", "priority"),
    "--retries": ("job", "retries"),
    "--price-gpu-hour": ("prices", "gpuHour"),
    "--price-cpu-hour": ("prices", "cpuHour"),
}


def changed(settings: Settings, flags: Mapping[str, Any]) -> Settings:
    """The settings with what was given in their place. Raises UserError that names the flag."""
    for flag, value in flags.items():
        if value is None:
            continue
        values = settings.model_dump(by_alias=True)
        *sections, key = FLAGS[flag]
        section = values[sections[0]] if sections else values
        section[key] = value
        try:
            settings = Settings.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{flag} {value}: {error.errors()[0]['msg']}") from error
    return settings
