"""``teddy-cloud run``: one spec carried out on this machine.

    teddy-cloud run --data folder:my/images --ipc 10 --set distill.iterations=500
    teddy-cloud run --spec my.toml --dry-run

The spec's values come from the recipe, then the TOML file, then the flags, then --set. Progress goes to standard error,
the result to standard output. What is finished stays in the store, so the same command goes on after any stop.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teddy_cloud.asked import (
    ClassesOption,
    DataOption,
    DeviceOption,
    IpcOption,
    PerClassOption,
    RecipeOption,
    SeedOption,
    SetOption,
    SkipBrokenOption,
    SpecOption,
    resolve,
    spec_flags,
)
from teddy_cloud.stops import stops

if TYPE_CHECKING:
    from teddy_ray.spec import Spec


def run(
    *,
    spec: SpecOption = None,
    recipe: RecipeOption = None,
    data: DataOption = None,
    classes: ClassesOption = None,
    per_class: PerClassOption = None,
    ipc: IpcOption = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Workers; 0: one a GPU or CPU core.")] = None,
    device: DeviceOption = None,
    store: Annotated[
        str, typer.Option(metavar="FOLDER|s3://BUCKET/PREFIX", help="Where everything is kept.")
    ] = "teddy-store",
    endpoint_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The S3 server, if not Amazon's; else AWS_ENDPOINT_URL_S3.")
    ] = None,
    allow_unsafe_store: Annotated[
        bool, typer.Option("--allow-unsafe-store", help="Use an S3 server that ignores conditional writes.")
    ] = False,
    seed: SeedOption = None,
    overrides: SetOption = None,
    skip_broken: SkipBrokenOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the whole spec and what it makes; stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Distil a dataset on this machine: base, pool, distill, relabel, evaluate, report.

    Settings come from the recipe, then --spec, then the flags, then --set.

    What is finished is kept: the same command goes on after a stop, and a larger --ipc reuses what it can.
    """
    flags = spec_flags(
        data=data, classes=classes, per_class=per_class, ipc=ipc, device=device, seed=seed, skip_broken=skip_broken
    )
    flags["compute.workers"] = workers
    resolved = resolve(recipe, spec, flags, overrides or [])
    if endpoint_url is not None:
        os.environ["AWS_ENDPOINT_URL_S3"] = endpoint_url  # which boto3 reads here and in Ray's workers
    if dry_run:
        print_plan(resolved, as_json=as_json)
    else:
        print_results(carry_out(resolved, store, allow_unsafe=allow_unsafe_store), as_json=as_json)


def print_plan(spec: Spec, *, as_json: bool) -> None:
    """The dry run: the spec that a run would carry out, and what that makes and costs. Nothing is written."""
    from teddy_cloud import show

    with stdout_is_stderr():
        from teddy_ray.pipeline.plan import plan
        from teddy_ray.pipeline.settle import settle

        spec = settle(spec)
        planned = plan(spec)
    values = spec.model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps({"spec": values, "digest": spec.digest, "plan": planned}))
        return
    typer.echo(f"# digest: {spec.digest}\n{show.spec_toml(values)}")
    typer.echo("\n".join(f"# {line}" for line in show.plan_lines(planned)))


def print_results(results: Mapping[str, Any], *, as_json: bool) -> None:
    """The end of a run, as tables, or as one object with the keys that scripts rely on."""
    from teddy_cloud import show

    if as_json:
        keys = ("run", "folder", "digests", "scores", "seconds", "reused")
        typer.echo(json.dumps({key: results[key] for key in keys}))
    else:
        show.print_results(results, sys.argv[1:])


def carry_out(spec: Spec, store: str, *, allow_unsafe: bool) -> dict[str, Any]:
    """The run's results, with progress on standard error meanwhile. Ctrl-C and SIGTERM say what is kept, and exit."""
    from teddy_cloud.progress import Progress

    progress = Progress()
    with stops() as stop:
        try:
            with stdout_is_stderr(), progress:
                from teddy_ray.store import open_store
                from teddy_ray.store.probe import refuse_unsafe

                opened = open_store(store)
                if warning := refuse_unsafe(opened, allow_unsafe):
                    typer.echo(f"warning: {warning}", err=True)
                from teddy_ray.pipeline import driver  # seconds of torch, which a wrong --store should not wait for

                return driver.run(spec, opened, emit=progress)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            number = stop(interrupt)
            if number is None:
                raise
    again = shlex.join(["teddy-cloud", *sys.argv[1:]])
    typer.echo(f"stopped: {progress.kept(store)}: {again}", err=True)
    raise typer.Exit(128 + number)


@contextmanager
def stdout_is_stderr() -> Iterator[None]:
    """What libraries and child processes print goes to standard error: standard output belongs to the result."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
