"""What a run says, kept in the store while it works: events as JSON lines, and the contact sheet as it is now.

    with Journal(store, "runs/digits-ipc1-teddy-1a2b3c4d") as journal:
        journal(event)

Each attempt has a number and its own folder; a file, once written, does not change. Nothing is written before the
journal is entered: what was said until then follows. A thread of its own writes, so that who speaks need not wait for
the store, and says that the attempt is alive while nothing else happens. How an attempt fails is its last event.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import threading
import time
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Self

from PIL import Image

from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline.events import Event, Stage, event
from teddy_ray.store import Store

FLUSH_SECONDS = 5.0
"""The latest events that a lost machine takes with it, and how often a run writes them."""
ALIVE_SECONDS = 30.0
"""How long an attempt is silent before it says that it is alive."""


class Journal:
    """An event sink; any thread may call it. A call raises what kept earlier events from being written."""

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._pictures: dict[str, Image.Image] = {}
        self._new_pictures = False
        self._stage: Stage = "data"
        self._said = time.monotonic()
        self._files = itertools.count()
        self._failed: UserError | WorldError | None = None
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._keep_writing, name="journal", daemon=True)
        self.attempt = 0

    def __call__(self, event: Event) -> None:
        if self._failed:
            raise self._failed
        with self._lock:
            self._stage = event["stage"]
            if event["kind"] == "preview":
                self._pictures[event["task"]] = _picture(event["png"])
                self._new_pictures = True
            else:
                self._waiting.append(json.dumps(event))

    def __enter__(self) -> Self:
        self.attempt = self._begin()
        self._writer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._writer.join()
        if error is None:
            if self._failed:
                raise self._failed
            self._flush()
            return
        self._waiting.append(json.dumps(_ending(self._stage, error)))
        # What ended the run is what its user must see, even where the store cannot be written either.
        with suppress(UserError, WorldError):
            self._flush()

    def _begin(self) -> int:
        """The number of this attempt: the first that nobody has taken."""
        for attempt in itertools.count(1):
            began = json.dumps(event("note", self._stage, message=f"attempt {attempt}")).encode() + b"\n"
            if self.store.put_if_absent(f"{self.run}/events/{attempt:04d}/began.jsonl", began):
                return attempt
        raise AssertionError("unreachable: counting does not end")

    def _keep_writing(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS):
            if time.monotonic() - self._said >= ALIVE_SECONDS:
                self(event("alive", self._stage))
            try:
                self._flush()
            except (UserError, WorldError) as error:
                self._failed = error  # for the next who speaks
                return

    def _flush(self) -> None:
        with self._lock:
            lines, self._waiting = self._waiting, []
            pictures = [picture for _, picture in sorted(self._pictures.items())] if self._new_pictures else []
            self._new_pictures = False
        if lines:
            self._said = time.monotonic()
            name = f"{self.run}/events/{self.attempt:04d}/{next(self._files):06d}.jsonl"
            self.store.put_bytes(name, ("\n".join(lines) + "\n").encode())
        if pictures:
            self.store.put_bytes(f"{self.run}/contact-sheet.png", _sheet(pictures))


def _ending(stage: Stage, error: BaseException) -> Event:
    """How an attempt ended before its time: a sentence, or for a bug of ours its traceback."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return event("ended", stage, outcome="stopped", message="stopped by Ctrl-C or a signal")
    explained = isinstance(error, (UserError, WorldError))
    message = str(error) if explained else "".join(traceback.format_exception(error))
    return event("ended", stage, outcome="failed", message=message.rstrip())


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
