"""The two kinds of failure that a user is told of in one sentence; anything else is our bug and keeps its traceback."""

from __future__ import annotations


class UserError(Exception):
    """What was asked cannot be done as asked: says what, where, what is allowed, what to do next. Exit code 2."""

    exit_code = 2


class WorldError(Exception):
    """What was asked is fine, but a machine, a disk or a number gave way: says which, and how to go on. Exit code 1."""

    exit_code = 1
