"""``teddy-cloud gc``: removes what no run needs any more.

    teddy-cloud gc --store s3://bucket/runs --older-than 30d --dry-run

What a finished run lists is never touched. To be rid of a run, remove its folder under runs/, then run this.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from teddy_cloud.stores import ContextOption, EndpointOption, NamespaceOption, StoreOption, find, seconds
from teddy_ray.errors import UserError

if TYPE_CHECKING:
    from teddy_ray.pipeline.garbage import Garbage
    from teddy_ray.store import Entry

LEAST_SECONDS = 3600.0
"""Younger files may be a run's that is about to commit them, whoever asks."""


def gc(
    *,
    store: StoreOption = None,
    endpoint_url: EndpointOption = None,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Leave what is younger, and all of runs that wrote since: 12h, 7d.")
    ] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")] = False,
) -> None:
    """Remove artifacts that no run needs, and what killed writers left behind.

    Kept is everything that a finished run lists, everything that an unfinished run makes or takes unless that run has
    been silent for longer than --older-than, and everything younger.
    """
    from teddy_ray.pipeline import garbage

    age = seconds(older_than, option="--older-than")
    if age < LEAST_SECONDS:
        raise UserError(f"--older-than {older_than}: at least 1h, as younger files may be those of a run at work")
    place = find(store, endpoint_url, context, namespace).store
    found = garbage.find(place, older_than=age)
    if not dry_run:
        found = garbage.remove(place, found)
    _print(found, done="would be removed" if dry_run else "removed")


def _print(found: Garbage, *, done: str) -> None:
    from teddy_ray.report import text

    if found.trouble:
        typer.echo(f"unfinished writes were not looked for: {text.printable(found.trouble)}", err=True)
    kinds = (("artifact", found.artifacts), ("file of no record", found.files), ("unfinished write", found.leftovers))
    for kind, entries in kinds:
        for folder, (number, size, modified) in _by_folder(entries).items():
            age = text.duration(max(0.0, time.time() - modified))
            typer.echo(f"{folder}  {kind}, {text.count(number, 'file')}, {text.size(size)}, {age} old")
    total = f"{text.count(len(found.all), 'file')}, {text.size(found.size)}"
    typer.echo(f"{done}: {total}" if found.all else "nothing to remove")


def _by_folder(entries: Iterable[Entry]) -> dict[str, tuple[int, int, float]]:
    """Of each folder how many files, how many bytes, and when the last one was written."""
    folders: dict[str, tuple[int, int, float]] = {}
    for entry in entries:
        folder = entry.key.rpartition("/")[0]
        number, size, modified = folders.get(folder, (0, 0, 0.0))
        folders[folder] = number + 1, size + entry.size, max(modified, entry.modified)
    return folders
