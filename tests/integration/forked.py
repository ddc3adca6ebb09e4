"""``teddy-cloud`` in a process that is forked from one with everything imported, which saves each run some seconds.

    Process(target=teddy_cloud, args=(["teddy-cloud", "run"], out, err, os.environ, folder)).start()

For runs in one process alone: Ray starts its own.
"""

import multiprocessing
import os
import signal
import sys

from teddy_cloud import app

multiprocessing.set_forkserver_preload(
    ["boto3", "forked", "sklearn.datasets", "teddy_ray.pipeline.driver", "torch_pruning"]
)


def teddy_cloud(command, out, err, environment, folder):
    """The command as a shell starts it."""
    for number, path in ((1, out), (2, err)):
        with path.open("w") as file:
            os.dup2(file.fileno(), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = command
    app.main()


class Process(multiprocessing.get_context("forkserver").Process):
    """Such a process, with a Popen's words."""

    def poll(self):
        return self.exitcode

    def wait(self, seconds=None):
        self.join(seconds)
        assert self.exitcode is not None
        return self.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)
