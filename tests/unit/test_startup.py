"""The command line answers at once: starting it imports none of the heavy libraries."""

import subprocess
import sys

HEAVY = ("boto3", "kubernetes", "matplotlib", "pyarrow", "pydantic", "ray", "torch")


def test_starting_the_cli_imports_no_heavy_library():
    code = f"import sys, teddy_cloud.app; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


LOOKING = """
import sys
from teddy_cloud import app
for line in ("list", "status a", "logs a", "compare a b", "pull a out", "gc"):
    sys.argv = ["teddy-cloud", *line.split(), "--store", sys.argv[-1]]
    try: app.main()
    except SystemExit as stop: assert not stop.code, line
print([m for m in ("torch", "ray", "boto3", "pyarrow", "PIL", "numpy") if m in sys.modules], file=sys.stderr)
"""


def test_looking_at_runs_imports_no_heavy_library(made_up, tmp_path):
    made_up.finished("a")
    made_up.finished("b")
    made_up.events("a")
    command = [sys.executable, "-c", LOOKING, made_up.store.root]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "[]\n"), done.stdout
