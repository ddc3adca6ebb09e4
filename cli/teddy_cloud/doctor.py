"""``teddy-cloud doctor``: is everything in place for a run on a cluster, and if not, who does what.

teddy-cloud doctor --namespace ml
teddy-cloud doctor --image-pull --json
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from teddy_cloud.stores import ContextOption, JsonOption, NamespaceOption

if TYPE_CHECKING:
    from teddy_cloud.cluster.checks import Check

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    *,
    context: ContextOption = None,
    namespace: NamespaceOption = None,
    image_pull: Annotated[
        bool, typer.Option("--image-pull", help="Start a pod that ends at once, to see that the image comes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check what a run needs: access, KubeRay, rights, settings, GPUs, store, image, queue. Exit 1 if one fails."""
    from teddy_cloud.cluster.checks import checks
    from teddy_cloud.control import of_cluster

    place = of_cluster(context, namespace)
    found = []
    for check in checks(place):
        found.append(check)
        if not as_json:
            _print(check)
    if image_pull and found[-1].name == "queue":
        from teddy_cloud.cluster.image_pull import pull_check

        found.append(pull_check(place))
        if not as_json:
            _print(found[-1])
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in found]))
    if any(check.level == "fail" for check in found):
        raise typer.Exit(1)


def _print(check: Check) -> None:
    from rich.text import Text

    from teddy_cloud.screen import console
    from teddy_ray.report.text import printable

    line = Text.assemble((f"{check.level:<5}", STYLES[check.level]), f"{check.name:<9}", printable(check.said))
    console().print(line, soft_wrap=True)
