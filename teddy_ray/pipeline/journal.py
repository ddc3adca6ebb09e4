"""What a run says, kept in the store while it works: events as JSON lines, and the contact sheet as it is now.

    with Journal(store, "runs/digits-ipc1-teddy-1a2b3c4d") as journal:
        journal(event)

Each attempt has a number and its own folder; a file, once written, does not change. Nothing is written before the
journal is entered: what was said until then follows.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import threading
import time
from types import TracebackType
from typing import Self

from PIL import Image

from teddy_ray.pipeline.events import Event
from teddy_ray.store import Store

FLUSH_SECONDS = 5.0


class Journal:
    """An event sink; any thread may call it."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._flushed = time.monotonic()
        self._files = itertools.count()
        self._pictures: dict[str, Image.Image] = {}
        self.attempt = 0

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event["kind"] == "preview":
                self._pictures[event["task"]] = _picture(event["png"])
            else:
                self._waiting.append(json.dumps(event))
            if self.attempt and time.monotonic() - self._flushed >= FLUSH_SECONDS:
                self._flush()

    def __enter__(self) -> Self:
        self.attempt = self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            if error is not None:
                self._waiting.append(json.dumps({"time": time.time(), "kind": "note", "message": repr(error)}))
            self._flush()

    def _begin(self) -> int:
        """The number of this attempt: the first that nobody has taken."""
        for attempt in itertools.count(1):
            began = json.dumps({"time": time.time(), "kind": "note", "message": f"attempt {attempt}"}).encode() + b"\n"
            if self.store.put_if_absent(f"{self.run}/events/{attempt:04d}/began.jsonl", began):
                return attempt
        raise AssertionError("unreachable: counting does not end")

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if self._waiting:
            name = f"{self.run}/events/{self.attempt:04d}/{next(self._files):06d}.jsonl"
            self.store.put_bytes(name, ("\n".join(self._waiting) + "\n").encode())
            self._waiting = []
        if self._pictures:
            self.store.put_bytes(
                f"{self.run}/contact-sheet.png", _sheet([p for _, p in sorted(self._pictures.items())])
            )


def _picture(png: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")


def _sheet(pictures: list[Image.Image], *, gap: int = 4) -> bytes:
    """The units' pictures under one another."""
    width = max(picture.width for picture in pictures)
    sheet = Image.new("RGB", (width, sum(picture.height + gap for picture in pictures) - gap), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + gap
    out = io.BytesIO()
    sheet.save(out, format="PNG")
    return out.getvalue()
