"""A run so small that many fit into a test session, and what starts it, waits for it, and looks into its store."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import forked
import pytest

from teddy_ray.store import open_store, records

COMMAND = Path(sys.executable).with_name("teddy-cloud")
SPEC = """
recipe = "teddy-post"
[data]
source = "digits"
classes = 3
per_class = 40
[base]
arch = "convnet"
epochs = 2
batch_size = 32
warmup_epochs = 0.5
threads = 1
[pool]
kind = "post"
size = 2
[distill]
ipc = 4
models_per_step = 1
iterations = 200
class_means_weight = 0.1
init = "patches"
checkpoint_seconds = 0.05
unit_images = 3
[relabel]
views = 3
[evaluate]
students = ["convnet"]
seeds = 1
epochs = 3
regimes = ["views"]
controls = ["random"]
"""
"""Four units of three images, of about a second each; post members, so that every stage has work. It says much that its
recipe says too, since recipes change."""

STAGES = ("data", "checkpoint", "base", "member", "unit", "images", "labels", "student", "report")
"""Of artifacts, in the order in which they are made."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    def results(self):
        """What it printed, having succeeded."""
        assert self.code == 0, self.err
        assert "Traceback" not in self.err
        return json.loads(self.out)

    def error(self):
        """Its one line about what went wrong; beside it there is only progress."""
        assert self.out == ""
        (line,) = [line for line in self.err.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
        return line


@dataclass
class Command:
    """A running ``teddy-cloud run``. Its output is in files: what it leaves behind could hold a pipe open."""

    process: subprocess.Popen | forked.Process
    out: Path
    err: Path
    started: float = field(default_factory=time.monotonic)

    def wait(self):
        code = self.process.wait(280)
        return Done(code, self.out.read_text(), self.err.read_text(), time.monotonic() - self.started)

    def wait_until(self, there):
        """What ``there()`` gives, once it is something."""
        while not (found := there()):
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() - self.started < 200, self.err.read_text()
            time.sleep(0.01)
        return found

    def freeze_when(self, there):
        """What ``there()`` gives, once it is something and the process can change nothing of it any more."""
        while True:
            self.wait_until(there)
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            if found := there():
                return found
            self.process.send_signal(signal.SIGCONT)

    def signal(self, number):
        """Send a signal; how it ended, and after how many seconds."""
        self.started = time.monotonic()
        self.process.send_signal(number)
        return self.wait()


class TeddyCloud:
    """The command as a user starts it, with the tiny spec and ``settings`` over it."""

    def __init__(self, folder):
        self.folder, self.commands = folder, []
        self.spec = folder / "tiny.toml"
        self.spec.write_text(SPEC)

    def start(self, store, *settings, **environment):
        overrides = [part for setting in settings for part in ("--set", setting)]
        line = ["run", "--json", "--spec", str(self.spec), "--store", str(store), *overrides]
        out, err = (self.folder / f"{len(self.commands)}.{name}" for name in ("out", "err"))
        if "compute.executor=inline" in settings:
            process = forked.Process(
                target=forked.teddy_cloud, args=([str(COMMAND), *line], out, err, os.environ | environment, self.folder)
            )
            process.start()
        else:
            process = self._start(line, out, err, os.environ | environment)
        self.commands.append(Command(process, out, err))
        return self.commands[-1]

    def _start(self, line, out, err, environment):
        # A child of a shell's background job would be deaf to Ctrl-C; so that it is not, it must not be ignored here.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        with out.open("w") as out_file, err.open("w") as err_file:
            process = subprocess.Popen(
                [COMMAND, *line], stdout=out_file, stderr=err_file, env=environment, cwd=self.folder
            )
        signal.signal(signal.SIGINT, before)
        return process

    def run(self, store, *settings, **environment):
        return self.start(store, *settings, **environment).wait()

    def results(self, store, *settings, **environment):
        """What a run prints that must succeed."""
        return self.run(store, *settings, **environment).results()

    def stop(self):
        for command in self.commands:
            if command.process.poll() is None:
                command.process.kill()
                command.process.wait()


class Artifacts:
    """What a store has, looked at from outside."""

    def __init__(self, store):
        self.store = open_store(str(store))
        self.folder = store / "artifacts"

    def records(self, stage):
        """The paths of a stage's records."""
        return sorted((self.folder / stage).glob("*/record.json"))

    def checkpoint(self, stage, *, since=0.0):
        """The path of the state of unfinished work, if there is any that was written after ``since``."""
        with suppress(FileNotFoundError):  # finished between two looks
            return next((p for p in (self.folder / stage).glob("*/resume") if p.stat().st_mtime > since), None)

    def half_way(self):
        """The checkpoint of a unit at work, which has no record yet, while another is finished."""
        found = self.checkpoint("unit") if self.records("unit") else None
        return found if found and not found.with_name("record.json").exists() else None

    def check(self):
        """Every record's files are there and what they were, and there is nothing else."""
        named = set()
        for path in self.folder.glob("*/*/record.json"):
            record = records.find(self.store, *path.parts[-3:-1])
            for file in record.files.values():
                assert len(records.read(self.store, file)) == file.size
            named |= {path.relative_to(self.store.root).as_posix(), *(file.key for file in record.files.values())}
        assert {entry.key for entry in self.store.list("artifacts/")} == named


@dataclass(frozen=True)
class Finished:
    """A run that nothing disturbed."""

    store: Path
    results: dict

    @property
    def folder(self):
        return Path(self.results["folder"])

    def copy_until(self, stage, store):
        """Its artifacts in a new store, as if ``stage`` were next."""
        left_out = STAGES[STAGES.index(stage) :]
        shutil.copytree(self.store / "artifacts", store / "artifacts", ignore=shutil.ignore_patterns(*left_out))
        return Artifacts(store)

    def assert_equal(self, results):
        """The same images, labels and scores; what they cost is another matter."""
        assert results["digests"] == self.results["digests"]
        assert _without_costs(results["scores"]) == _without_costs(self.results["scores"])


def _without_costs(scores):
    return [{name: value for name, value in row.items() if name != "construction_seconds"} for row in scores]


@pytest.fixture(scope="session")
def teddy_cloud(tmp_path_factory):
    command = TeddyCloud(tmp_path_factory.mktemp("command"))
    yield command
    command.stop()


@pytest.fixture(scope="session")
def reference(teddy_cloud, tmp_path_factory):
    """The tiny spec, undisturbed and inline: what every other way of carrying it out must equal."""
    store = tmp_path_factory.mktemp("reference") / "store"
    return Finished(store, teddy_cloud.results(store, "compute.executor=inline"))


@dataclass(frozen=True)
class Process:
    """A process, and not the next one that is given its number."""

    pid: int
    parent: int
    born: str
    title: str

    @classmethod
    def all(cls):
        return [found for entry in Path("/proc").iterdir() if entry.name.isdigit() and (found := cls._read(entry))]

    @classmethod
    def _read(cls, entry):
        """From /proc; None for one that has ended."""
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            title = (entry / "cmdline").read_text().replace("\0", " ").strip()
            return None if fields[0] in "ZX" else cls(int(entry.name), int(fields[1]), fields[19], title)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)


class Processes:
    """The processes that a command has started."""

    def of(self, pid, *, titled=""):
        """Its descendants whose title has ``titled`` in it."""
        everyone, family = Process.all(), {pid}
        while more := {each.pid for each in everyone if each.parent in family} - family:
            family |= more
        return [each for each in everyone if each.pid in family - {pid} and titled in each.title]

    def wait_until_gone(self, processes, seconds):
        end = time.monotonic() + seconds
        names = {(each.pid, each.born): each.title for each in processes}
        while left := names.keys() & {(each.pid, each.born) for each in Process.all()}:
            assert time.monotonic() < end, [names[each] for each in left]
            time.sleep(0.1)


@pytest.fixture(scope="session")
def processes():
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system has no /proc to find processes in")
    return Processes()


@pytest.fixture
def store(tmp_path):
    """A store's place, not made yet."""
    return tmp_path / "store"


@pytest.fixture(scope="session")
def artifacts():
    """Looks into a store."""
    return Artifacts
