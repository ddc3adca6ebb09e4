"""Commands to go on with, that find the same runs as the one that was typed.

told(namespace="ml")
command("resume", "digits-ipc10")    # teddy-cloud resume digits-ipc10 --namespace ml
"""

from __future__ import annotations

import shlex

_where: list[str] = []
"""Of the one command that a process carries out."""


def told(**options: str | None) -> None:
    """Remember what was typed about where runs are, by the options' names."""
    _where[:] = [word for name, value in options.items() if value for word in (f"--{name.replace('_', '-')}", value)]


def command(*words: str) -> str:
    """``teddy-cloud`` with these words, for people to paste."""
    return shlex.join(["teddy-cloud", *words, *_where])
