"""The contents of the wheel, and the results of each way of installing."""

import configparser
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from skimage import data, io

ROOT = Path(__file__).parents[1]
PACKAGES = ("rescale_app", "rescale_arch", "rescale_compat", "rescale_data", "rescale_model")
PTH = "rescale_compat.pth"


def attempt(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    # `make test` hands its own settings down, which change what `make` prints.
    ours = ("RESCALE_COMPAT", "MAKE", "MFLAGS", "PYTHON", "VENV")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | variables
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def run(*command: str | Path, cwd: Path) -> str:
    result = attempt(*command, cwd=cwd)
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
    for name in (*PACKAGES, "tools"):
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
        metadata = archive.read(f"{info}/METADATA").decode()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {*PACKAGES, PTH, info}
    for package in PACKAGES:
        sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / package).rglob("*.py")}
        assert {*sources, f"{package}/__init__.py", f"{package}/py.typed"} <= names
    assert f"\n{PTH},sha256=" in f"\n{record}"
    assert dict(entry_points["console_scripts"]) == {"rescale": "rescale_app.cli:main"}
    assert "\nRequires-Python: >=3.11\n" in metadata


def test_included_weights_are_in_the_wheel(wheel: Path) -> None:
    weights = {p.relative_to(ROOT).as_posix() for p in (ROOT / "rescale_app/weights").glob("*")}
    with zipfile.ZipFile(wheel) as archive:
        assert weights <= set(archive.namelist())


def test_files_of_pages_and_reports_are_in_the_wheel(wheel: Path) -> None:
    suffixes = {".html", ".css", ".js"}
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "rescale_app").rglob("*")
        if path.suffix in suffixes
    }
    assert "rescale_app/export/web/index.html" in files
    with zipfile.ZipFile(wheel) as archive:
        assert files <= set(archive.namelist())


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
    # torch and BasicSR come from the environment that runs the tests. Its .pth files are not read,
    # but for the one with which setuptools provides distutils.
    borrowed = Path(sysconfig.get_path("purelib"))
    (packages / "a_borrowed.pth").write_text(f"{borrowed}\n")
    shutil.copy(borrowed / "distutils-precedence.pth", packages)
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    target = {"wheel": [wheel], "folder": [source], "editable": ["--editable", source]}[kind]
    run(*pip, "install", "--no-deps", "--no-index", "--no-build-isolation", *target, cwd=tmp_path)

    assert (packages / PTH).is_file()
    run(python, "-c", "import basicsr", cwd=tmp_path)
    where = run(python, "-c", "import rescale_compat as r; print(r.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(source if kind == "editable" else packages)
    rescale = environment / "bin/rescale"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version in run(rescale, "--version", cwd=tmp_path)
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


@pytest.fixture(scope="module")
def older_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `make` needs and a single Python, which says that it is 3.10."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("make", "sh"):
        folder.joinpath(name).symlink_to(str(shutil.which(name)))
    older = folder / "python3"
    older.write_text(
        f"#!{sys.executable}\n"
        "import runpy, sys\n"
        "sys.version_info = (3, 10, 13, 'final', 0)\n"
        "arguments = sys.argv[1:]\n"
        "if arguments == ['--version']:\n"
        "    print('Python 3.10.13')\n"
        "elif arguments[0] == '-c':\n"
        "    exec(arguments[1])\n"
        "elif arguments[0] != '-m':  # pip, which it has\n"
        "    runpy.run_path(arguments[0], run_name='__main__')\n"
    )
    older.chmod(0o755)
    return folder


def test_make_with_python_3_10_says_which_python_is_required(
    older_python: Path, tmp_path: Path
) -> None:
    command = ("make", f"VENV={tmp_path}/environment", "test")
    result = attempt(*command, cwd=ROOT, PATH=str(older_python))
    assert result.returncode != 0
    assert "Python 3.11 or later is required, and python3 is Python 3.10.13." in result.stderr
    assert "make VENV=.venv-3.13 PYTHON=/path/to/python3.13" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["tools/install_basicsr.py", "setup.py"])
def test_pip_with_python_3_10_says_which_python_is_required(
    script: str, older_python: Path, tmp_path: Path
) -> None:
    result = attempt(older_python / "python3", ROOT / script, cwd=tmp_path)
    message = "rescale-basicsr requires Python 3.11 or later; this is Python 3.10.13\n"
    assert (result.returncode, result.stderr) == (1, message)


def test_make_keeps_an_older_environment(older_python: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(older_python / "python3")
    command = ("make", f"VENV={environment}", "PYTHON=python3", "test")
    result = attempt(*command, cwd=ROOT, PATH=str(older_python))
    assert f"{environment}/bin/python is Python 3.10.13." in result.stderr
    assert (environment / "bin/python").exists()


# BasicSR's setup.py finds its version in a way that ends with Python 3.13. This one fails like it,
# on every Python.
SETUP = """\
from setuptools import setup

version_file = 'basicsr/version.py'


def locals():
    return {}


def get_version():
    with open(version_file, 'r') as f:
        exec(compile(f.read(), version_file, 'exec'))
    return locals()['__version__']


setup(
    name='basicsr', version=get_version(), packages=['basicsr'], setup_requires=['not-installed']
)
"""


@pytest.fixture
def basicsr_source(tmp_path: Path) -> Path:
    """A folder with a source distribution that is called BasicSR 1.4.2."""
    tree = tmp_path / "basicsr-1.4.2"
    (tree / "basicsr").mkdir(parents=True)
    (tree / "setup.py").write_text(SETUP)
    (tree / "basicsr/__init__.py").touch()
    (tree / "basicsr/version.py").write_text("__version__ = '1.4.2'\n")
    folder = tmp_path / "sources"
    folder.mkdir()
    with tarfile.open(folder / "basicsr-1.4.2.tar.gz", "w:gz") as archive:
        archive.add(tree, tree.name)
    return folder


def test_basicsr_builds_though_its_version_is_not_in_locals(
    basicsr_source: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"  # somebody's project, where the step is run: not to be changed
    own.mkdir()
    (own / "setup.py").write_text(SETUP)
    options = ("--no-index", "--find-links", basicsr_source, "--no-cache-dir", "--target", "new")
    run(sys.executable, ROOT / "tools/install_basicsr.py", *options, cwd=own)
    assert (own / "new/basicsr/version.py").is_file()
    (info,) = own.glob("new/*.dist-info")
    assert info.name == "basicsr-1.4.2.dist-info"
    assert (own / "setup.py").read_text() == SETUP


def test_a_failed_build_of_basicsr_fails_the_step(basicsr_source: Path, tmp_path: Path) -> None:
    (basicsr_source / "basicsr-1.4.2.tar.gz").unlink()
    options = ("--no-index", "--find-links", basicsr_source, "--target", "new")
    result = attempt(sys.executable, ROOT / "tools/install_basicsr.py", *options, cwd=tmp_path)
    assert result.returncode == 1
    assert "No matching distribution found for basicsr==1.4.2" in result.stderr


def test_basicsr_without_setuptools_says_what_to_install(tmp_path: Path) -> None:
    bare = (sys.executable, "-S")  # no site-packages
    result = attempt(*bare, ROOT / "tools/install_basicsr.py", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.endswith("-m pip install setuptools wheel\n")


def test_the_step_installs_the_basicsr_that_this_project_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    step = runpy.run_path(str(ROOT / "tools/install_basicsr.py"))
    assert step["REQUIREMENT"] in project["dependencies"]


def test_constraints_pin_every_dependency_once() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition("==")[0].lower() for line in lines if not line.startswith("#")]
    assert sorted(set(pins)) == sorted(pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["dev"] + extras["demo"] + extras["export"]
    names = {re.split("[<>=;]", requirement)[0].lower() for requirement in wanted}
    assert names <= {name.replace("_", "-") for name in pins}
