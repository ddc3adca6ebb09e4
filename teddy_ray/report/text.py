"""Numbers as people read them, and strings made safe for Markdown, YAML and TOML.

Everything that a user may have typed (class names, sources, run names) passes through here or jinja2's autoescape.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Markdown(str):
    """Text that is Markdown already, and is not escaped again."""

    __slots__ = ()


def markdown(value: object) -> str:
    """``value`` as one line of Markdown, in which no character has a meaning, in a table's cell either."""
    if isinstance(value, Markdown):
        return value
    line = html.escape(" ".join(printable(str(value)).split()), quote=False)
    # Marks, what would open a list or a heading, and what GitHub would make a link of.
    return re.sub(r"[\\`*_{}\[\]|~$]|^[#+-]|:(?=//)", r"\\\g<0>", line)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> Markdown:
    """A table; the columns in ``right`` are aligned right. Cells that are not Markdown are escaped."""
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    lines = [header, rule, *([markdown(cell) for cell in row] for row in rows)]
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))


def yaml(value: object) -> str:
    """``value`` as a double-quoted YAML string on one line, without tags."""
    # A JSON string is one, once the characters are gone that YAML forbids.
    return json.dumps(printable(str(value)), ensure_ascii=False).replace("<", "\\u003c")


def printable(text: str) -> str:
    """``text`` with control characters, line separators and lone surrogates as spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def toml(values: Mapping[str, Any]) -> str:
    """A spec as TOML that the command line reads back; settings that are absent are left out."""
    top = [line for key, value in values.items() if not isinstance(value, Mapping) for line in _setting(key, value)]
    parts = [
        [f"[{name}]", *(line for key, value in part.items() for line in _setting(key, value))]
        for name, part in values.items()
        if isinstance(part, Mapping)
    ]
    return "\n\n".join("\n".join(lines) for lines in [top, *parts] if lines) + "\n"


def _setting(key: str, value: Any) -> Iterator[str]:
    if value is not None:
        # A JSON value is a TOML value, except that TOML wants DEL escaped.
        yield f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")


def duration(seconds: float) -> str:
    """``0.4 s``, ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(number: int) -> str:
    """``512 B``, ``1.3 kB``, ``24.6 MB``."""
    value, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{number} B" if unit == "B" else f"{value:.1f} {unit}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 image``, ``1,347 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
