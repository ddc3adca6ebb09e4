"""Ctrl-C and SIGTERM, told apart at the end of long work, so that the exit code says which it was.

with stops() as stop:
    try:
        work()
    except (KeyboardInterrupt, SystemExit) as interrupt:
        number = stop(interrupt)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from teddy_ray.pipeline import stopping


@contextmanager
def stops() -> Iterator[Callable[[BaseException], int | None]]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does; yields what tells the signal behind an exception, if any.

    Ray puts its own handlers in place of ours, and they raise SystemExit with codes of their own. What
    Python's wakeup pipe says is true whatever the handler.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)

    def signal_of(exception: BaseException) -> int | None:
        try:
            numbers = os.read(reading, 4096)
        except BlockingIOError:
            numbers = b""
        plain = signal.SIGINT if isinstance(exception, KeyboardInterrupt) else None
        return next((number for number in numbers if number in (signal.SIGINT, signal.SIGTERM)), plain)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # as a shell's background job is started
            signal.signal(number, stopping.stop)
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield signal_of
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
