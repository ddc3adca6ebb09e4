"""The wheel stands alone: it holds what it needs and no more, and works where there is no checkout."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import teddy_ray

ROOT = Path(__file__).parents[2]
CHECK = """
import importlib.metadata, teddy_cloud, teddy_ray
from teddy_ray import recipes, spec
print(teddy_cloud.__file__, teddy_ray.__file__, sep="\\n")
print(importlib.metadata.version("teddy-cloud"), *[spec.resolve(name, {}, {}).recipe for name in recipes.names()])
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command that must succeed, away from the checkout, and returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with our dependencies but not our checkout."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    run(sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    # After the install, or pip would find the checkout's own entry. The editable install does not come along, since a
    # .pth in a folder that a .pth names is not read.
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_what_it_needs_and_no_more(wheel):
    names = {PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()}
    info = f"teddy_cloud-{teddy_ray.__version__}.dist-info"
    expected = {PurePosixPath("teddy_ray/py.typed"), PurePosixPath(f"{info}/licenses/LICENSE")}
    for pattern in ("teddy_ray/recipes/*.toml", "teddy_ray/report/templates/*", "teddy_ray/**/*.py"):
        found = {PurePosixPath(path.relative_to(ROOT).as_posix()) for path in ROOT.glob(pattern)}
        assert found, pattern
        expected |= found
    assert expected <= names
    assert {name.parts[0] for name in names} == {"teddy_cloud", "teddy_ray", info}


def test_the_command_and_the_recipes_work_without_a_checkout(environment, tmp_path):
    assert "Usage: teddy-cloud" in run(environment / "bin" / "teddy-cloud", "--help", cwd=tmp_path)
    *files, last = run(environment / "bin" / "python", "-c", CHECK, cwd=tmp_path).splitlines()
    assert all(Path(file).is_relative_to(environment) for file in files), files
    recipes = sorted(path.stem for path in (ROOT / "teddy_ray" / "recipes").glob("*.toml"))
    assert last.split() == [teddy_ray.__version__, *recipes]
