"""What a wheel holds, and what each way of installing leaves in an environment."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from skimage import data, io

ROOT = Path(__file__).parents[1]
PACKAGES = ("rescale_app", "rescale_arch", "rescale_compat", "rescale_data", "rescale_model")
PTH = "rescale_compat.pth"


def run(*command: str | Path, cwd: Path) -> str:
    # `make test` hands its own settings down, which change what `make` prints.
    ours = ("RESCALE_COMPAT", "MAKE", "MFLAGS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads: building must not write into the working tree."""
    folder = tmp_path_factory.mktemp("source")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    files = {"setup.py", "pyproject.toml", "LICENSE", project.get("readme", "LICENSE")}
    for name in files:
        shutil.copy(ROOT / name, folder)
    for name in PACKAGES:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=source)
    (path,) = source.glob("dist/*.whl")
    return path


def test_wheel_holds_the_packages_the_hook_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(n for n in names if n.endswith(".dist-info/RECORD")).rpartition("/")[0]
        record = archive.read(f"{info}/RECORD").decode()
        entry_points = configparser.ConfigParser()
        entry_points.read_string(archive.read(f"{info}/entry_points.txt").decode())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {*PACKAGES, PTH, info}
    for package in PACKAGES:
        sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / package).rglob("*.py")}
        assert {*sources, f"{package}/__init__.py", f"{package}/py.typed"} <= names
    assert f"\n{PTH},sha256=" in f"\n{record}"
    assert dict(entry_points["console_scripts"]) == {"rescale": "rescale_app.cli:main"}


def test_shipped_weights_are_in_the_wheel(wheel: Path) -> None:
    weights = {p.relative_to(ROOT).as_posix() for p in (ROOT / "rescale_app/weights").glob("*")}
    with zipfile.ZipFile(wheel) as archive:
        assert weights <= set(archive.namelist())


def test_pth_is_silent_without_the_package(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(PTH, tmp_path)
    code = f"import site; site.addsitedir({str(tmp_path)!r}); print('started')"
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("started\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "folder", "editable"])
def test_installed_hook_serves_every_interpreter(
    kind: str, source: Path, wheel: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    venv.create(environment)
    python = environment / "bin/python"
    (packages,) = environment.glob("lib/python*/site-packages")
    # torch and BasicSR come from the environment that runs the tests; its .pth files are not read.
    (packages / "a_borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    target = {"wheel": [wheel], "folder": [source], "editable": ["--editable", source]}[kind]
    run(*pip, "install", "--no-deps", "--no-index", "--no-build-isolation", *target, cwd=tmp_path)

    assert (packages / PTH).is_file()
    run(python, "-c", "import basicsr", cwd=tmp_path)
    where = run(python, "-c", "import rescale_compat as r; print(r.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(source if kind == "editable" else packages)
    rescale = environment / "bin/rescale"
    assert "0.1.0" in run(rescale, "--version", cwd=tmp_path)
    if kind == "wheel":  # restores with the weights that are in it
        io.imsave(tmp_path / "cat.png", data.chelsea())
        told = run(rescale, "compare", "cat.png", cwd=tmp_path)
        assert "bicubic" in told and (tmp_path / "cat-x2.png").is_file()

    run(*pip, "uninstall", "--yes", "rescale-basicsr", cwd=tmp_path)
    assert not (packages / PTH).exists()
    assert not [p for p in packages.iterdir() if "rescale" in p.name]


def test_make_alone_lists_the_targets() -> None:
    listed = {line.split()[0] for line in run("make", cwd=ROOT).splitlines()}
    assert listed == {
        *("help", "demo", "demo-page", "test", "test-all", "test-page"),
        *("bench", "lint", "format", "clean"),
    }


def test_constraints_pin_every_dependency_once() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition("==")[0].lower() for line in lines if not line.startswith("#")]
    assert sorted(set(pins)) == sorted(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["dev"] + extras["demo"]
    names = {re.split("[<>=]", requirement)[0].lower() for requirement in wanted}
    assert names <= {name.replace("_", "-") for name in pins}
