"""What the README shows is run, as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from teddy_cloud.run import resolve
from teddy_ray import published

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.strip().splitlines()[-1][:40])
def test_every_python_example_runs(code, tmp_path):
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)


def test_the_parquet_example_can_be_distilled(tmp_path):
    (code,) = [block for block in blocks("python") if "train.parquet" in block]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    small = (
        *("base.epochs=1", "base.warmup_epochs=0", "pool.size=1", "distill.models_per_step=1"),
        *("distill.iterations=1", "relabel.views=1", "evaluate.epochs=1"),
    )
    settings = [part for setting in small for part in ("--set", setting)]
    command = [Path(sys.executable).with_name("teddy-cloud"), "run", "--data", "train.parquet", *settings]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    assert list(tmp_path.glob("teddy-store/runs/*/manifest.json"))


def test_the_training_example_trains_on_a_run(reference):
    (code,) = [block for block in blocks("python") if "published" in block]
    names = {}
    exec(code, names)  # the README is ours
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3))
    names["train_on"](str(reference.folder), student, epochs=30, batch_size=5, temperature=4.0)
    run = published.load(reference.folder)
    pictures, logits = run.batch(torch.arange(len(run.images)), view=0)
    assert (student(2 * pictures - 1).argmax(dim=1) == logits.argmax(dim=1)).float().mean() > 0.5


def test_the_recipe_example_resolves(tmp_path):
    (tmp_path / "my.toml").write_text(blocks("toml")[0])
    spec = resolve(None, tmp_path / "my.toml", {}, [])
    assert (spec.recipe, spec.pool.size, spec.distill.ipc) == ("teddy-prior", 3, 2)


@pytest.mark.parametrize("line", [line for line in blocks("sh")[0].splitlines() if "run" in line])
def test_every_command_line_is_understood(line, tmp_path):
    words = re.sub(r"(folder:)?PATH", "digits", line.split("#")[0]).replace("my.toml", "/dev/null")
    command = [Path(sys.executable).with_name("teddy-cloud"), *words.split()[1:], "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
