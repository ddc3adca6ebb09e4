"""What this process has moved to and from stores elsewhere, for whoever measures it.

before = traffic.now()
store.get(key)
traffic.now().read - before.read
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace


@dataclass
class Traffic:
    """Bytes of contents, and requests that had to be repeated."""

    read: int = 0
    written: int = 0
    retries: int = 0


_total = Traffic()
_lock = threading.Lock()


def count(*, read: int = 0, written: int = 0, retries: int = 0) -> None:
    """Add what has just been moved; any thread may."""
    with _lock:
        _total.read += read
        _total.written += written
        _total.retries += retries


def now() -> Traffic:
    """All of it since the process began."""
    with _lock:
        return replace(_total)
