"""The driver's log as long as a pod has it: the submitter's, which follows the driver's and outlives the Ray cluster.

    for line in driver_log(cluster, run, follow=True): ...

A connection that breaks is made anew where it broke off; a new attempt's log follows the one before.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teddy_cloud.cluster.state import state_of
from teddy_ray.errors import UserError, WorldError

if TYPE_CHECKING:
    from teddy_cloud.cluster.api import Cluster

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Ray's own lines have them, terminal or not
POLL_SECONDS = 2.0
PATIENCE_SECONDS = 300.0
"""How long the cluster may be out of reach before somebody who follows a log is told."""


def driver_log(cluster: Cluster, run: str, *, follow: bool, told: Callable[[str], None]) -> Iterator[str]:
    """The lines so far, and with ``follow`` those until the run ends. ``told`` hears why there are none yet."""
    fresh: dict[str, Fresh] = {}
    said: list[str] = []
    reached = time.monotonic()
    while True:
        try:
            rayjob = cluster.get(run)
            for pod in _begun(cluster.pods(run)):
                name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
                seen = fresh.setdefault(name, Fresh())
                yield from seen.only(cluster.pod_log(name, container, follow=follow, since=seen.last))
            reached = time.monotonic()
        except WorldError:
            if not follow or time.monotonic() - reached > PATIENCE_SECONDS:
                raise
        else:
            if not follow or rayjob is None or state_of(rayjob).phase.is_terminal:
                return
            if not fresh:
                _say_why(cluster, run, said, told)
        time.sleep(POLL_SECONDS)


@dataclass
class Fresh:
    """Lets through what a log says that it has not said before, by the moment in front of each line.

    The server goes back to the whole second, so that the last lines come again; lines of the same moment are counted.
    """

    last: str | None = None
    same: int = 0

    def only(self, lines: Iterable[str]) -> Iterator[str]:
        """The new lines, without their moments."""
        begin, skip, count = self.last or "", self.same, 0
        for line in lines:
            moment, _, text = line.partition(" ")
            if moment < begin:
                continue
            if moment == begin:
                count += 1
                if count <= skip:
                    continue
            self.same = self.same + 1 if moment == self.last else 1
            self.last = moment
            yield _COLOUR.sub("", text)


def _begun(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The submitters that have something to say, the oldest first."""
    submitters = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("teddy-cloud/role") == "submitter"]
    begun = [pod for pod in submitters if any(map(_has_log, (pod.get("status") or {}).get("containerStatuses") or []))]
    return sorted(begun, key=lambda pod: pod["metadata"]["creationTimestamp"])


def _has_log(container: dict[str, Any]) -> bool:
    return bool({"running", "terminated"} & (container.get("state") or {}).keys())


def _say_why(cluster: Cluster, run: str, said: list[str], told: Callable[[str], None]) -> None:
    """What a run without any log waits for, each reason once."""
    from teddy_cloud.cluster.diagnosis import diagnose
    from teddy_cloud.cluster.watch import situation

    try:
        found = situation(cluster, run)
    except (UserError, WorldError) as error:
        reasons = [str(error)]
    else:
        reasons = [f"{run} is {state_of(found.rayjob).phase}", *diagnose(found, now=time.time())]
    for reason in reasons:
        if reason not in said:
            said.append(reason)
            told(reason)
