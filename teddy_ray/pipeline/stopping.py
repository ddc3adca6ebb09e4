"""Being told to stop, by Ctrl-C or SIGTERM, in the middle of whatever Python was doing.

    signal.signal(signal.SIGTERM, stop)
    with unmasked():
        work()                          # raises KeyboardInterrupt, whatever came of it on its way

An exception that a signal's handler raises may come up amid a library's C code, which can make another error of it:
NumPy says that it could not determine the shape of an object.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_told = threading.Event()


def stop(_number: int, _frame: FrameType | None) -> None:
    """A signal's handler: raises KeyboardInterrupt, and remembers it."""
    _told.set()
    raise KeyboardInterrupt


@contextmanager
def unmasked() -> Iterator[None]:
    """Raises KeyboardInterrupt in place of an error that comes up after ``stop`` was called."""
    _told.clear()
    try:
        yield
    except Exception as error:
        if _told.is_set():
            raise KeyboardInterrupt from error
        raise
