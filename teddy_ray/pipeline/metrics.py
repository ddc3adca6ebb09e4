"""A run in Ray's metrics, for Prometheus: how far each stage is, how fast, and what goes to and from the store.

    publish = Metrics("digits-ipc10-teddy-1a2b3c4d")
    publish(event)                      # in the driver
    publish_traffic()                   # in every process

Ray puts ``ray_`` before the names. The chart's dashboard shows these and no others.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from teddy_ray.pipeline.events import Event
from teddy_ray.pipeline.progress import Stages
from teddy_ray.store import traffic


class Metrics:
    """An event sink that shows the stages of ``run`` as gauges."""

    def __init__(self, run: str) -> None:
        self._run, self._stages = run, Stages()
        tags = ("run", "stage")
        self._done = Gauge("teddy_stage_done_tasks", "Tasks of the stage that are committed.", tags)
        self._total = Gauge("teddy_stage_total_tasks", "Tasks of the stage.", tags)
        self._share = Gauge("teddy_stage_share", "How far the stage is, from 0 to 1.", tags)
        self._speed = Gauge("teddy_images_per_second", "Images that the stage's workers go through.", tags)

    def __call__(self, event: Event) -> None:
        stage = self._stages.take(event)
        if stage is None:
            return
        tags = {"run": self._run, "stage": stage.name}
        self._done.set(stage.total if stage.seconds is not None else stage.done, tags)
        self._total.set(stage.total, tags)
        self._share.set(stage.share, tags)
        running = stage.seconds is None
        self._speed.set(stage.numbers.get("images_per_second", 0.0) if running else 0.0, tags)
        publish_traffic()


class _Published:
    """What Prometheus has been told of this process's traffic."""

    def __init__(self) -> None:
        self.told = traffic.Traffic()
        self.bytes = Counter("teddy_store_bytes_total", "Contents moved to and from the store.", ("direction",))
        self.retries = Counter("teddy_store_retries_total", "Requests to the store that had to be repeated.")

    def update(self) -> None:
        now, told = traffic.now(), self.told
        for direction, more in (("read", now.read - told.read), ("written", now.written - told.written)):
            if more:  # a counter takes no 0
                self.bytes.inc(more, {"direction": direction})
        if now.retries > told.retries:
            self.retries.inc(now.retries - told.retries)
        self.told = now


_published: list[_Published] = []


def publish_traffic() -> None:
    """Bring the counters of this process up to date; Ray must be running."""
    if not _published:
        _published.append(_Published())
    _published[0].update()
