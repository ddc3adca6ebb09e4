"""Set up for all tests: one thread for each process, since many small processes share few cores."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, so set before any test module is

pytest_plugins = ["s3_server"]
