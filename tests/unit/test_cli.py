"""The command line: its options, whose word counts, its errors and exit codes, what it prints, and how it stops."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import typer

import teddy_ray.pipeline
from teddy_cloud import app, progress, show
from teddy_cloud.progress import Lines, Progress, Rows
from teddy_ray.errors import UserError, WorldError
from teddy_ray.pipeline.events import Event

RUN_OPTIONS = {
    "--spec", "--recipe", "--data", "--classes", "--per-class", "--ipc", "--workers", "--device", "--store", "--seed",
    "--set", "--skip-broken", "--dry-run", "--json", "--endpoint-url", "--allow-unsafe-store",
}  # fmt: skip

CLUSTER_OPTIONS = {"--context", "--namespace", "-n"}
STORE_OPTIONS = {"--store", "--endpoint-url", *CLUSTER_OPTIONS}
SPEC_OPTIONS = {
    "--spec", "--recipe", "--data", "--classes", "--per-class", "--ipc", "--device", "--seed", "--set", "--skip-broken",
}  # fmt: skip
SLOT_OPTIONS = {"--gpus", "--workers", "--gpus-per-node", "--gpu-type"}
OPTIONS = {
    "run": RUN_OPTIONS,
    "plan": {
        *SPEC_OPTIONS,
        *CLUSTER_OPTIONS,
        *SLOT_OPTIONS,
        "--train-images",
        "--price-gpu-hour",
        "--price-cpu-hour",
        "--json",
    },
    "submit": {
        *SPEC_OPTIONS,
        *CLUSTER_OPTIONS,
        *SLOT_OPTIONS,
        "--spot",
        "--image",
        "--max-hours",
        "--queue-timeout",
        "--queue",
        "--priority",
        "--retries",
        "--wait",
        "--dry-run",
        "--json",
    },
    "list": {*STORE_OPTIONS, "--state", "--dataset", "--recipe", "--since", "--json"},
    "status": {*STORE_OPTIONS, "--watch", "--json"},
    "logs": {*STORE_OPTIONS, "--follow", "-f", "--stage"},
    "cancel": {*CLUSTER_OPTIONS, "--now"},
    "pause": CLUSTER_OPTIONS,
    "resume": {*CLUSTER_OPTIONS, "--gpus", "--workers"},
    "dashboard": {*CLUSTER_OPTIONS, "--port"},
    "delete": {*STORE_OPTIONS, "--results", "--yes", "-y"},
    "doctor": {*CLUSTER_OPTIONS, "--image-pull", "--json"},
    "pull": {*STORE_OPTIONS, "--only", "--verify"},
    "compare": {*STORE_OPTIONS, "--json"},
    "gc": {*STORE_OPTIONS, "--older-than", "--dry-run"},
    "recipes": set(),
}
ARGUMENTS = {"pull": ["run", "out"], "compare": ["names"]} | {
    name: ["run"] for name in ("status", "logs", "cancel", "pause", "resume", "dashboard", "delete")
}

PLAN = {
    "classes": 10,
    "images": 10,
    "units": 1,
    "members": 5,
    "students": 6,
    "label_rows": 1000,
    "label_bytes": 2_500_000,
    "steps": {"base": 210, "distill": 1000, "evaluate": 1800},
    "seconds": {"base": 12.0, "distill": 80.0, "evaluate": 3.4},
    "notes": ["sizes are known once the data is read"],
}


def score(set_: str, accuracy: float, *, regime: str = "views") -> dict:
    return {
        "set": set_, "student": "convnet", "regime": regime, "accuracy": accuracy, "spread": 0.5,
        "runs": [accuracy - 0.5, accuracy + 0.5], "steps": 300, "construction_seconds": 45.0, "random": 70.0,
        "random_spread": 0.5,
    }  # fmt: skip


def made_results(**changes) -> dict:
    return {
        "run": "digits-ipc1-teddy-1a2b3c4d",
        "folder": "teddy-store/runs/digits-ipc1-teddy-1a2b3c4d",
        "spec": {"recipe": "teddy", "distill": {"ipc": 1}},
        "digests": {"images": "a" * 64, "labels": "b" * 64},
        "dataset": {"class_names": [str(digit) for digit in range(10)], "train_images": 1347, "test_images": 450},
        "scores": [score("distilled", 84.0), score("random", 70.0), score("full", 98.0, regime="hard")],
        "seconds": {"data": 0.5, "base": 12.0, "distill": 32.5},
        "reused": {"stages": ["data", "base"], "units": ["c0000-s0000"]},
        "units": [{"name": "c0000-s0000"}],
        **changes,
    }


@pytest.fixture
def cli(monkeypatch, capfd, tmp_path):
    """Runs ``teddy-cloud`` with arguments in an empty folder; returns exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/teddy-cloud", *arguments])
        with pytest.raises(SystemExit) as stop:
            app.main()
        return stop.value.code or 0, *capfd.readouterr()

    return call


@pytest.fixture(autouse=True)
def pipeline(monkeypatch):
    """Puts a made-up module into teddy_ray.pipeline, in place of one that would do real work; two are there already."""

    def put(name: str, **contents) -> None:
        module = types.ModuleType(f"teddy_ray.pipeline.{name}")
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(teddy_ray.pipeline, name, module, raising=False)

    put("plan", plan=lambda _: PLAN)
    put("driver", run=lambda *_, **__: made_results())
    return put


@pytest.fixture
def resolved(cli):
    """The spec, as nested values, that arguments ask for."""

    def resolve(*arguments: str) -> dict:
        code, out, err = cli("run", "--dry-run", "--json", *arguments)
        assert code == 0, err
        return json.loads(out)["spec"]

    return resolve


# What there is.


def test_the_commands_are_these():
    commands = typer.main.get_command(app.app).commands
    assert {name for name, command in commands.items() if not command.hidden} == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_and_arguments_of_a_command_are_these(name):
    parameters = typer.main.get_command(app.app).commands[name].params
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    assert {word for option in options for word in (*option.opts, *option.secondary_opts)} == OPTIONS[name]
    assert [parameter.name for parameter in parameters if parameter not in options] == ARGUMENTS.get(name, [])


README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```.*?^```", README, flags=re.MULTILINE | re.DOTALL)
SHOWN = re.findall(r"^(?:\$ )?(teddy-cloud .*)", "\n".join(BLOCKS), flags=re.MULTILINE)


@pytest.mark.parametrize("line", SHOWN)
def test_the_readmes_commands_are_understood(line):
    name, *arguments = shlex.split(re.split(r" #| \|", line)[0])[1:]
    typer.main.get_command(app.app).commands[name].make_context(name, arguments)


def test_version_and_recipes(cli):
    assert cli("--version")[:2] == (0, f"teddy-cloud {teddy_ray.__version__}\n")
    code, out, _ = cli("recipes")
    assert code == 0
    assert {"random", "sre2l", "teddy", "teddy-post", "teddy-prior"} <= {line.split()[0] for line in out.splitlines()}


def test_starting_does_not_even_import_rich():
    code = "import sys, teddy_cloud.app; print('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"False"


# Whose word counts.


def test_every_flag_sets_its_field(resolved):
    spec = resolved(
        "--recipe", "sre2l", "--data", "folder:my images", "--classes", "3", "--per-class", "40", "--ipc", "2",
        "--workers", "1", "--device", "cpu", "--seed", "7", "--skip-broken",
    )  # fmt: skip
    assert (spec["recipe"], spec["seed"], spec["distill"]["ipc"]) == ("sre2l", 7, 2)
    assert (spec["compute"]["workers"], spec["compute"]["device"]) == (1, "cpu")
    data = {"source": "folder:my images", "classes": 3, "per_class": 40, "skip_broken": True}
    assert {name: spec["data"][name] for name in data} == data


@pytest.mark.parametrize(("typed", "classes"), [("3", 3), ("cat, dog", ["cat", "dog"]), ("7,", ["7"])])
def test_classes_are_a_number_or_names(resolved, typed, classes):
    assert resolved("--classes", typed)["data"]["classes"] == classes


def test_set_outdoes_flags_outdo_the_file_outdoes_the_recipe(resolved, tmp_path):
    (tmp_path / "my.toml").write_text("seed = 3\n[distill]\nipc = 5\n")
    assert resolved()["seed"] == 0
    spec = resolved("--spec", "my.toml")
    assert (spec["seed"], spec["distill"]["ipc"]) == (3, 5)
    spec = resolved("--spec", "my.toml", "--ipc", "6")
    assert (spec["seed"], spec["distill"]["ipc"]) == (3, 6)
    spec = resolved("--set", "distill.ipc=7", "--spec", "my.toml", "--ipc", "6")
    assert (spec["seed"], spec["distill"]["ipc"]) == (3, 7)
    assert (
        resolved("--set", "distill.ipc=7", "--set", "distill={ipc=8}", "--set", "distill.ipc=9")["distill"]["ipc"] == 9
    )


def test_the_file_names_the_recipe_unless_the_flag_does(resolved, tmp_path):
    (tmp_path / "my.toml").write_text('recipe = "sre2l"\n')
    assert resolved("--spec", "my.toml") == resolved("--recipe", "sre2l")
    assert resolved("--spec", "my.toml", "--recipe", "random") == resolved("--recipe", "random")


def test_a_dry_run_reloads_to_the_same_digest(cli, tmp_path):
    names = 'a "quote",back\\slash,é 😀,del\x7f,tab\there'
    arguments = ("--data", "folder:my images", "--classes", names, "--set", "distill.lr=1e-05", "--seed", "4")
    code, toml, _ = cli("run", "--dry-run", *arguments)
    assert code == 0
    (tmp_path / "again.toml").write_text(toml)
    first, second = (
        json.loads(cli("run", "--dry-run", "--json", *given)[1]) for given in (arguments, ("--spec", "again.toml"))
    )
    assert first == second
    assert f"# digest: {first['digest']}" in toml
    assert "# data.size = (unset)" in toml


def test_a_dry_run_says_what_it_makes_and_starts_nothing(cli, tmp_path):
    _, out, _ = cli("run", "--dry-run")
    for line in (
        "10 images of 10 classes, in 1 unit",
        "1,000 rows, 2.5 MB",
        "1,000 steps of distill (1 min 20 s)",
        "note: sizes are",
    ):
        assert line in out
    assert json.loads(cli("run", "--dry-run", "--json")[1])["plan"] == PLAN
    assert not list(tmp_path.iterdir())


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "distill.iteration=5"), "did you mean 'distill.iterations'"),
        (("--set", "distill.ipc"), "expected KEY=VALUE"),
        (("--set", "recipe=sre2l"), "use --recipe sre2l"),
        (("--recipe", "tedy"), "did you mean 'teddy'"),
        (("--ipc", "0"), "distill.ipc = 0"),
        (("--device", "tpu"), "compute.device"),
        (("--spec", "nowhere.toml"), "nowhere.toml cannot be read: No such file"),
        (("--spec", "broken.toml"), "broken.toml is not TOML: "),
        (("--spec", "broken.toml"), "line 2"),
        (("--spec", "latin1.toml"), "latin1.toml is not TOML: "),
        (("--spec", "number.toml"), "recipe = 5"),
        (("--spec", "unknown.toml"), "unknown setting 'dist"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_what_is_impossible_is_refused_in_one_line(cli, tmp_path, arguments, words, more):
    (tmp_path / "broken.toml").write_text("seed = 1\nseed 2\n")
    (tmp_path / "latin1.toml").write_bytes(b'[data]\nsource = "\xe9"\n')
    (tmp_path / "number.toml").write_text("recipe = 5\n")
    (tmp_path / "unknown.toml").write_text("[dist]\nipc = 5\n")
    code, out, err = cli("run", *arguments, *more)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert words in err


@pytest.mark.parametrize("arguments", [("--no-such-flag",), ("--ipc", "many"), ("digits",)])
def test_what_is_no_option_exits_with_2(cli, arguments):
    code, out, err = cli("run", *arguments)
    assert (code, out) == (2, "")
    assert arguments[0] in err


@pytest.mark.parametrize(("error", "code"), [(UserError("not\nso\x1b[31m"), 2), (WorldError("the disk is full"), 1)])
def test_errors_of_the_run_are_one_line_and_their_code(cli, pipeline, error, code):
    def run(*_, **__):
        raise error

    pipeline("driver", run=run)
    found, out, err = cli("run", "--json")
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("error: ")
    assert "\x1b" not in err


def test_our_own_bugs_keep_their_traceback(cli, pipeline):
    pipeline("driver", run=lambda *_, **__: {}["no such key"])
    with pytest.raises(KeyError):
        cli("run")


# The end of a run.


def test_json_is_one_object_and_nothing_else_reaches_standard_output(cli, pipeline):
    def run(*_, **__):
        print("a library prints")  # noqa: T201
        os.write(1, b"a C library prints\n")
        subprocess.run(["echo", "a child prints"], check=True)
        return made_results()

    pipeline("driver", run=run)
    code, out, err = cli("run", "--json")
    assert code == 0
    assert set(json.loads(out)) == {"run", "folder", "digests", "scores", "seconds", "reused"}
    assert [line for line in err.splitlines() if line.endswith("prints")] == [
        "a library prints", "a C library prints", "a child prints",
    ]  # fmt: skip


def test_the_store_is_the_one_that_was_asked_for(cli, pipeline, tmp_path):
    uris = []
    pipeline("driver", run=lambda _, store, **__: uris.append(store.uri) or made_results())
    cli("run")
    cli("run", "--store", str(tmp_path / "elsewhere"))
    assert [uri.rsplit("/", 1)[-1] for uri in uris] == ["teddy-store", "elsewhere"]


def test_the_tables_say_scores_places_and_commands_in_80_columns(cli):
    code, out, _ = cli("run", "--data", "folder:my images", "--ipc", "1")
    assert code == 0
    assert "84.0 ± 0.5 (n=2)" in out
    assert "distilled" in out
    for place in ("dataset/", "labels/", "report/index.html", "results.json"):
        assert f"teddy-store/runs/digits-ipc1-teddy-1a2b3c4d/{place}\n" in out
    assert "teddy-cloud run --data 'folder:my images' --ipc 10\n" in out
    assert "teddy-cloud run --data 'folder:my images' --ipc 1 --dry-run\n" in out
    assert "Done in 45 s; reused data, base and 1 unit." in out
    table = out[: out.index("Where")]
    assert max(map(len, table.splitlines())) <= 80
    assert "\x1b" not in out


def test_an_ascii_terminal_still_gets_its_table():
    code = (
        "import sys; from teddy_cloud import app, show; sys.argv = ['teddy-cloud', '--version']\n"
        "try: app.main()\nexcept SystemExit: pass\n"
        "print('± 0.5')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "\\xb1 0.5", done.stderr


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["run", "--ipc", "5", "--json"], ["run", "--json"]),
        (["run", "--ipc=5", "--seed", "5"], ["run", "--seed", "5"]),
        (["run", "--skip-broken", "--ipc", "5"], ["run", "--skip-broken"]),
        (["run", "--set", "distill.ipc=5", "--set", "seed=5"], ["run", "--set", "seed=5"]),
        (["run", "--set=distill.ipc=5", "--set=pool.size=2"], ["run", "--set=pool.size=2"]),
    ],
)
def test_the_next_command_replaces_the_ipc(arguments, kept):
    assert show.without_ipc(arguments) == kept


def test_a_larger_ipc_is_named_only_where_there_are_images_for_its_controls():
    few = {"class_names": ["a", "b"], "train_images": 18}
    assert [what for what, _ in show.next_commands(made_results(dataset=few), ["run"])] == ["look", "settings"]
    assert show.larger_ipc(made_results()) == 10
    assert show.larger_ipc(made_results(spec={"distill": {"ipc": 100}})) is None


def test_a_run_in_a_store_elsewhere_is_to_be_pulled_first():
    results = made_results(folder="s3://bucket/runs/runs/digits-ipc1-teddy-1a2b3c4d")
    pull = "teddy-cloud pull digits-ipc1-teddy-1a2b3c4d digits-ipc1-teddy-1a2b3c4d --store s3://bucket/runs"
    for given, more in (
        ([], ""),
        (["--endpoint-url", "http://x:1", "--ipc", "1"], " --endpoint-url http://x:1"),
        (["--endpoint-url=http://x:1"], " --endpoint-url=http://x:1"),
    ):
        what, command = show.next_commands(results, ["run", *given])[0]
        assert (what, command) == ("pull", pull + more)
    assert dict(show.where(results))["labels"] == "s3://bucket/runs/runs/digits-ipc1-teddy-1a2b3c4d/labels/"


# What is there already: list, status, logs, compare, pull, gc.

LONG = "tiny-imagenet-ipc100-teddy-prior-1a2b3c4d"


@pytest.fixture
def runs_cli(cli, made_up):
    """The command, on a store with three runs."""
    made_up.finished(LONG, data__source="[red]/data", distill__ipc=100, recipe="sre2l")
    made_up.finished("digits-ipc1-b", seed=1)
    made_up.spec("digits-ipc1-c")
    step = {"kind": "progress", "task": "u", "done": 5, "total": 10, "values": {"loss": 1.5}, "time": time.time()}
    made_up.events("digits-ipc1-c", {"kind": "stage_started", "done": 1, "total": 4}, step)
    return lambda command, *arguments: cli(command, *arguments, "--store", str(made_up.store.root))


def test_a_list_fits_into_80_columns_with_whole_names(runs_cli):
    code, out, err = runs_cli("list")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert f" {LONG} " in out
    assert "[red]/data, IPC 100, convnet, " in out
    rows = [line.split() for line in out.splitlines() if "±" in line]
    assert {tuple(row[1:]) for row in rows} == {("finished", "84.0", "±", "0.5", "80.0", "±", "0.5")}


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], 3),
        (["--state", "finished"], 2),
        (["--state", "failed", "--state", "running"], 1),
        (["--dataset", "digits"], 2),
        (["--recipe", "sre2l"], 1),
        (["--since", "1h"], 3),
        (["--since", "2999-01-01"], 0),
        (["--dataset", "digits", "--state", "finished", "--recipe", "teddy"], 1),
    ],
)
def test_a_list_can_be_narrowed(runs_cli, arguments, found):
    assert len(json.loads(runs_cli("list", "--json", *arguments)[1])) == found


def test_an_empty_list_says_so_on_standard_error(runs_cli, cli):
    assert cli("list") == (0, "", "no runs in teddy-store\n")
    assert runs_cli("list", "--recipe", "x")[2].endswith(" like that\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("list", "--state", "done"), "running, retrying, paused, finished, cancelled, stopped, failed"),
        (("list", "--since", "yesterday"), "12h or 7d, or a date"),
        (("status", "digits-ipc1-x"), "the nearest names are digits-ipc1-"),
        (("logs", "digits"), "begins the names of 2 runs"),
        (("pull", "digits-ipc1-c", "out"), "the run digits-ipc1-c is not finished"),
        (("compare", "digits-ipc1-b"), "two to 26 different runs"),
        (("compare", "digits-ipc1-b", "digits-ipc1-b"), "two to 26 different runs"),
        (("gc", "--older-than", "10m"), "at least 1h"),
        (("gc", "--older-than", "soon"), "a number and a unit"),
    ],
)
def test_what_cannot_be_asked_of_runs_is_refused_in_one_line(runs_cli, arguments, words):
    code, out, err = runs_cli(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_the_endpoint_is_set_before_the_store_is_opened(cli, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    seen = []
    monkeypatch.setattr("teddy_ray.store.open_store", lambda _: seen.append(os.environ["AWS_ENDPOINT_URL_S3"]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli("list", "--store", "s3://bucket", "--endpoint-url", "http://localhost:1")
    assert seen == ["http://localhost:1"]


def test_a_status_shows_every_stage_in_80_columns(runs_cli):
    code, out, err = runs_cli("status", "digits-ipc1-c")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert out.startswith("digits-ipc1-c  running\nteddy, digits, IPC 1; began ")
    stages = [line.split() for line in out.splitlines() if line.startswith("  ")]
    assert ["distill", "1/4", "38%", "loss", "1.50"] in stages
    assert ["relabel"] in stages


def test_a_watch_ends_with_the_run(runs_cli, made_up, monkeypatch):
    looks = []

    def sleep(_):
        looks.append(1)
        failed = {"kind": "ended", "outcome": "failed", "message": "disk full at [x]\n  twice"}
        made_up.events("digits-ipc1-c", failed, number=1)

    monkeypatch.setattr(time, "sleep", sleep)
    code, out, _ = runs_cli("status", "digits-ipc1-c", "--watch", "--json")
    assert (code, [json.loads(line)["state"] for line in out.splitlines()]) == (0, ["running", "failed"])
    assert runs_cli("status", "digits-ipc1-c")[1].endswith("disk full at [x]\n  twice\n")
    assert len(looks) == 1


def test_logs_are_lines_with_dates_and_how_it_ended(runs_cli, made_up):
    made_up.events("digits-ipc1-c", {"kind": "ended", "outcome": "failed", "message": "a\x1b[31m\nb"}, number=1)
    made_up.events("digits-ipc1-c", attempt=2)
    code, out, err = runs_cli("logs", "digits-ipc1-c")
    assert (code, err) == (0, "")
    lines = [line[20:] for line in out.splitlines()]
    assert lines[:2] == ["attempt 1", "distill started: 4 units, 1 of them reused"]
    assert lines[-3:] == ["failed: a [31m", "failed: b", "attempt 2"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in out.splitlines())


def test_a_comparison_names_runs_by_letters(runs_cli):
    code, out, err = runs_cli("compare", "tiny", "digits-ipc1-c", "digits-ipc1-b")
    assert (code, err) == (0, "")
    assert f"A  {LONG}\nB  digits-ipc1-c  (not finished)\nC  digits-ipc1-b\n" in out
    cells = [line.split() for line in out.splitlines()]
    assert ["distill.ipc", "100", "1", "1"] in cells
    assert ["data.source", "[red]/data", "digits", "digits"] in cells
    assert ["convnet", "views", "coreset", "80.0", "±", "0.5", "80.0", "±", "0.5"] in cells
    assert json.loads(runs_cli("compare", "tiny", "digits-ipc1-b", "--json")[1])["settings"]["distill.ipc"] == [100, 1]


def test_a_pull_says_what_it_did_and_goes_on_after_ctrl_c(runs_cli, monkeypatch, tmp_path):
    from teddy_ray.pipeline import pull as pipeline_pull

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline_pull, "download", interrupted)
        code, out, err = runs_cli("pull", "tiny", "my out")
    assert (code, out) == (130, "")
    assert err.startswith("stopped: what has come is kept; go on with: teddy-cloud pull tiny 'my out' --store ")
    code, out, err = runs_cli("pull", "tiny", "my out")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"{LONG} is in my out: 1 file, 1 file fetched, [\d.]+ k?B\n", out)
    (tmp_path / "my out" / "results.json").write_bytes(b"")
    assert runs_cli("pull", "tiny", "my out")[2] == "my out/results.json was not what the run wrote: replaced\n"
    assert runs_cli("pull", "tiny", "my out")[1] == f"{LONG} is in my out: 1 file, all of them there before\n"


def test_gc_says_what_and_how_much(runs_cli, made_up):
    key = made_up.artifact("unit", "a" * 64, x=b"0" * 2_000_000)
    for path in made_up.store.root.rglob("*"):
        os.utime(path, (time.time() - 10 * 86400,) * 2)
    code, out, err = runs_cli("gc", "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith(f"artifacts/unit/{'a' * 64}  artifact, 2 files, 2.0 MB, 240 h 00 min old")
    assert out.splitlines()[1] == "would be removed: 2 files, 2.0 MB"
    assert made_up.store.head(key)
    assert runs_cli("gc")[1].splitlines()[1] == "removed: 2 files, 2.0 MB"
    assert made_up.store.head(key) is None


# Being told to stop.


def events_until_a_stop(emit):
    for event in (
        {"kind": "stage_started", "stage": "base", "done": 0, "total": 1},
        {"kind": "task_done", "stage": "base", "task": "train"},
        {"kind": "stage_done", "stage": "base", "values": {"seconds": 1.0}},
        {"kind": "stage_started", "stage": "distill", "done": 2, "total": 7},
        {"kind": "task_done", "stage": "distill", "task": "c0002-s0000"},
    ):
        emit({"time": time.time(), **event})


@pytest.fixture
def not_deaf():
    """A shell's background job ignores Ctrl-C, and whatever it starts does too: not here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("not_deaf")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("handlers", ["ours", "of a library"])
def test_a_stop_says_what_is_kept_and_how_to_go_on(cli, pipeline, number, code, handlers):
    def run(*_, emit):
        events_until_a_stop(emit)
        if handlers == "of a library":  # as Ray does
            signal.signal(number, lambda *_: sys.exit(1))
        os.kill(os.getpid(), number)
        time.sleep(10)

    pipeline("driver", run=run)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    started = time.monotonic()
    found, out, err = cli("run", "--json", "--data", "folder:my images")
    assert (found, out) == (code, "")
    assert time.monotonic() - started < 5
    assert err.splitlines()[-1] == (
        "stopped: base and 3 of 7 units are kept in teddy-store; go on with:"
        " teddy-cloud run --json --data 'folder:my images'"
    )
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_stop_before_anything_is_finished_says_so(cli, pipeline):
    def run(*_, **__):
        raise KeyboardInterrupt

    pipeline("driver", run=run)
    assert cli("run")[::2] == (130, "stopped: nothing is finished yet; start again with: teddy-cloud run\n")


# Progress.


class Told(Lines):
    """The log's view, with its lines at hand."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def _print(self, moment, text):
        self._last = moment
        self.lines.append(text)


def tell(view, *events: Event) -> Progress:
    told = Progress(view)
    with told:
        for event in events:
            told({"stage": "distill", **event})
    return told


def start(total=10, done=0, at=1000.0):
    return {"kind": "stage_started", "time": at, "total": total, "done": done}


def step(at, task, done, **values):
    return {"kind": "progress", "time": at, "task": task, "done": done, "total": 100, "values": values}


def task_done(at, task):
    return {"kind": "task_done", "time": at, "task": task}


def test_a_log_line_holds_the_numbers_and_the_time_left():
    view = Told()
    tell(
        view,
        start(total=10, done=2),
        step(1001.0, "a", 0, **{"loss": 4.0, "statistics": 2.0, "class": 2.0, "images_per_second": 50}),
        task_done(1002.0, "b"),
        step(1021.0, "c", 0, **{"loss": 2.42, "statistics": 2.2, "class": 0.22, "images_per_second": 70}),
    )
    # One of eight tasks in the twenty seconds since the first event, and seven are left.
    line = "distill 3/10 units, loss 3.21 (statistics 2.10, class 1.11), 120 images/s, 2m20s left"
    assert view.lines == ["distill started: 10 units, 2 of them reused", line]


def test_a_log_gets_a_line_in_ten_seconds_and_all_starts_and_ends():
    view = Told()
    steps = [step(1000.0 + second, "a", second) for second in range(1, 60)]
    tell(view, start(total=1), *steps, {"kind": "stage_done", "time": 1060.0, "values": {"seconds": 60.0}})
    assert [line.split(",")[0] for line in view.lines] == [
        "distill started: 1 unit", "distill 10%", "distill 20%", "distill 30%", "distill 40%", "distill 50%",
        "distill done in 1m00s",
    ]  # fmt: skip


def test_a_task_that_goes_on_from_a_checkpoint_does_not_promise_too_much():
    view = Told()
    tell(view, start(total=1), step(1001.0, "a", 80), step(1011.0, "a", 90))
    assert view.lines[-1] == "distill 90%, 10s left"


def test_reused_and_empty_stages_say_so():
    view = Told()
    end = {"kind": "stage_done", "time": 1001.0, "values": {"seconds": 0.0}}
    tell(view, start(total=3, done=3), end)
    tell(view, start(total=0), end)
    assert view.lines == ["distill reused", "distill nothing to do"]


def test_a_stage_that_only_says_that_it_is_done_is_shown():
    view = Told()
    told = tell(view, {"kind": "stage_done", "stage": "report", "time": 1001.0, "values": {"seconds": 1.0}})
    assert view.lines[-1] == "report done in 1s"
    assert told.kept("here") == "report is kept in here; go on with"


def test_events_that_only_count_steps_keep_the_numbers():
    view = Told()
    tell(view, start(total=1), step(1001.0, "a", 10, loss=1.5, accuracy=71.0), step(1012.0, "a", 20))
    assert "loss 1.50, accuracy 71.0 %" in view.lines[-1]


def test_a_late_event_does_not_bring_a_finished_task_back():
    view = Told()
    told = tell(
        view,
        start(total=4),
        step(1001.0, "a", 50),
        task_done(1002.0, "a"),
        step(1003.0, "a", 99),
        task_done(1004.0, "a"),
    )
    assert told.kept("here").startswith("1 of 4 units")
    assert told._stages["distill"].share == 0.25


def test_events_may_come_from_many_threads():
    with Progress(Rows()) as told:
        told({"stage": "distill", **start(total=400)})

        def work(worker: int) -> None:
            for number in range(100):
                told({"stage": "distill", **step(1000.0, f"{worker}-{number}", 50, loss=1.0)})
                told({"stage": "distill", **task_done(1001.0, f"{worker}-{number}")})

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told.kept("here").startswith("400 of 400 units")


def test_terminal_rows_fit_80_columns(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    numbers = {"loss": 123.45, "statistics": 100.0, "class": 23.45, "images_per_second": 123_456}
    steps = [step(1000.0 + 5000 * done, "a", done, **numbers) for done in (1, 2)]
    tell(
        Rows(),
        {**start(total=5, done=5), "stage": "pool"},
        start(total=1000, done=100, at=time.time() - 10_000),
        *({**event, "time": time.time() - 1} for event in steps),
        {"kind": "note", "time": 1000.0, "message": "eager, since there is [no] compiler"},
    )
    err = capfd.readouterr().err
    assert "distill: eager, since there is [no] compiler" in err
    rows = [line for line in err.splitlines() if line.startswith(("pool", "distill "))]
    assert "reused" in rows[0]
    assert "100/1,000 units" in rows[1]
    assert max(map(len, rows)) <= 80


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (80, "1m20s"),
        (3599.7, "1h00m"),
        (7500, "2h05m"),
        (273_600, "3d04h"),
    ],
)
def test_durations_are_short(seconds, text):
    assert progress.duration(seconds) == text


def test_a_terminal_gets_rows_and_a_log_gets_lines(monkeypatch):
    assert isinstance(Progress()._view, Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(Progress()._view, Rows)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(Progress()._view, Lines)
