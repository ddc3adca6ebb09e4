"""What a RayJob carries of its run: the spec in its head's environment, for runs that no store knows yet; pure.

spec_of(rayjob)["distill"]["ipc"]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teddy_ray.pipeline.runs import RunSummary

SPEC_VARIABLE = "TEDDY_SPEC"


def spec_of(rayjob: Mapping[str, Any]) -> dict[str, Any]:
    """The spec as nested values, maybe of another version; empty where the RayJob is not as we make them."""
    try:
        containers = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
        text = next(each["value"] for each in containers[0]["env"] if each["name"] == SPEC_VARIABLE)
        values = json.loads(text.replace("$$", "$"))  # each $ is doubled, as Kubernetes expands $(NAME)
    except (KeyError, IndexError, StopIteration, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def summary_of(rayjob: Mapping[str, Any]) -> RunSummary:
    """A line of a list for a run of which there is just a RayJob; its state is for others to say."""
    from teddy_ray.pipeline.runs import RunSummary

    values = spec_of(rayjob)
    began = datetime.fromisoformat(rayjob["metadata"]["creationTimestamp"]).timestamp()
    return RunSummary(
        run=rayjob["metadata"]["name"],
        state="",
        recipe=values.get("recipe", ""),
        dataset=values.get("data", {}).get("source", ""),
        ipc=values.get("distill", {}).get("ipc"),
        began=began,
        updated=began,
    )
