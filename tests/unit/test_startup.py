"""The command line answers at once: starting it imports none of the heavy libraries."""

import subprocess
import sys

HEAVY = ("boto3", "kubernetes", "matplotlib", "pyarrow", "pydantic", "ray", "torch")


def test_starting_the_cli_imports_no_heavy_library():
    code = f"import sys, teddy_cloud.app; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
