"""The table of values in the chart's README, made of the `# --` comments in its values.yaml.

    python helm/readme.py            # write it
    python helm/readme.py --check    # exit 1 where it is not what values.yaml says

A comment that starts with `# --` describes the key on the next line that is not a comment, and all that is below it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "teddy-cloud"
BEGIN, END = "<!-- values: made by helm/readme.py -->", "<!-- end of values -->"
KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z0-9]+):")


def described(text: str) -> Iterator[tuple[str, str]]:
    """Dotted key and description of each value that has one, in the file's order."""
    path: list[str] = []
    words: list[str] = []
    for line in text.splitlines():
        comment = line.strip()
        if comment.startswith("# -- "):
            words = [comment[5:]]
        elif comment.startswith("#"):
            words += [comment[1:].strip()] if words else []
        elif found := KEY.match(line):
            path = [*path[: len(found["indent"]) // 2], found["key"]]
            if words:
                yield ".".join(path), " ".join(words)
            words = []


def value_at(values: Any, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        values = values[part]
    return values


def table(text: str) -> str:
    """The values as a Markdown table."""
    values = yaml.safe_load(text)
    lines = ["| value | default | what it is |", "| --- | --- | --- |"]
    for key, words in described(text):
        default = json.dumps(value_at(values, key), ensure_ascii=False)
        lines.append(f"| `{key}` | `{default}` | {words.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def readme(old: str, values: str) -> str:
    """The README with the table of these values in place of the old one."""
    before, rest = old.split(BEGIN)
    return f"{before}{BEGIN}\n{table(values)}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str]) -> int:
    """Write the README, or check it."""
    path = CHART / "README.md"
    old = path.read_text()
    new = readme(old, (CHART / "values.yaml").read_text())
    if "--check" in arguments:
        return int(new != old)
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
