"""The commands of ``teddy-cloud``, and the one place where an error becomes a line and an exit code.

    teddy-cloud run --ipc 10 --store s3://bucket/runs
    teddy-cloud list --store s3://bucket/runs
    teddy-cloud pull digits-ipc10 ./out --store s3://bucket/runs

Exit codes: 0 done; 1 the world gave way, or the run that was waited for failed; 2 not possible as asked, or refused by
the cluster; 130 stopped by Ctrl-C, or the run was cancelled or stopped; 143 stopped by SIGTERM.
Starting imports neither torch, ray nor pydantic, so that ``--help`` is there at once.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from teddy_cloud.compare import compare
from teddy_cloud.control import cancel, delete, pause, resume
from teddy_cloud.dashboard import dashboard
from teddy_cloud.doctor import doctor
from teddy_cloud.drive import drive
from teddy_cloud.gc import gc
from teddy_cloud.list import list_runs
from teddy_cloud.logs import logs
from teddy_cloud.plan import plan
from teddy_cloud.pull import pull
from teddy_cloud.run import run
from teddy_cloud.status import status
from teddy_cloud.submit import submit
from teddy_ray import __version__
from teddy_ray.errors import UserError, WorldError

EXIT_CODES = (
    "Exit codes: 0 done; 1 the world gave way, or the run failed; 2 not possible as asked, or refused by the cluster;"
    " 130 stopped or cancelled; 143 stopped by SIGTERM."
)

app = typer.Typer(
    no_args_is_help=True,
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,  # its tracebacks show local variables: too much, and perhaps a secret
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(plan)
app.command()(submit)
app.command(hidden=True)(drive)
app.command("list")(list_runs)
for command in (status, logs, cancel, pause, resume, dashboard, delete, doctor, pull, compare, gc):
    app.command()(command)


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # an ASCII locale must not fail at the table after hours of work
    try:
        app(prog_name="teddy-cloud")
    except (UserError, WorldError) as error:
        _print_error(str(error))
        sys.exit(error.exit_code)


def _print_error(message: str) -> None:
    """``error: message`` as one line on standard error, red on a terminal."""
    from teddy_ray.report.text import printable

    line = printable(message)
    if not sys.stderr.isatty():
        typer.echo(f"error: {line}", err=True)
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), (line, "red")), soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"teddy-cloud {__version__}")
        raise typer.Exit


@app.callback()
def teddy_cloud(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Distil a labelled image dataset into a small synthetic one, with Teddy's Taylor-approximated matching."""


@app.command()
def recipes() -> None:
    """List the recipes that --recipe takes."""
    from importlib.resources import files

    from teddy_ray.recipes import names

    for name in names():
        lines = files("teddy_ray.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8").splitlines()
        comment = next((line.lstrip("# ") for line in lines if line.startswith("#")), "")
        typer.echo(f"{name:<12} {comment}")
