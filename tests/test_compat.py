"""The import hook, in real interpreters of the environment that runs the tests."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import rescale_compat

import pytest

ROOT = Path(rescale_compat.__file__).parents[1]


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "RESCALE_COMPAT"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=inherited | environment,
        timeout=120,
    )


def finders() -> list[object]:
    return [f for f in sys.meta_path if getattr(f, "__module__", None) == "rescale_compat"]


def fake_torchvision(folder: Path, has_ops: bool) -> None:
    """Writes the skeleton of a torchvision whose compiled library did, or did not, load."""
    files = {
        "torchvision/__init__.py": "from . import extension, _meta_registrations, transforms\n",
        "torchvision/extension.py": f"def _has_ops():\n    return {has_ops}\n",
        "torchvision/_meta_registrations.py": "",
        "torchvision/transforms/__init__.py": "",
        "torchvision/transforms/_functional_tensor.py": "origin = 'private'\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_basicsr_imports_in_any_interpreter_of_the_environment() -> None:
    result = python("-c", "import basicsr; print(basicsr.__version__)")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("1.4.2")


@pytest.fixture
def training_script(tmp_path: Path) -> str:
    """BasicSR's own, from a copy: a script's folder is the first on its path."""
    spec = find_spec("basicsr")
    assert spec is not None and spec.submodule_search_locations
    shutil.copytree(spec.submodule_search_locations[0], tmp_path / "basicsr")
    return str(tmp_path / "basicsr" / "train.py")


def test_unmodified_basicsr_script_starts(training_script: str) -> None:
    result = python(training_script, "--help")
    assert result.returncode == 0, result.stderr
    assert "--auto_resume" in result.stdout


def test_the_switch_leaves_the_original_error(training_script: str) -> None:
    result = python(training_script, "--help", RESCALE_COMPAT="0")
    if result.returncode == 0:
        pytest.skip("BasicSR imports without help here")
    error = result.stderr.strip().splitlines()[-1]
    assert error in (
        "RuntimeError: operator torchvision::nms does not exist",
        "ModuleNotFoundError: No module named 'torchvision.transforms.functional_tensor'",
    )


def test_switched_off_the_module_runs_an_unmodified_basicsr_script(training_script: str) -> None:
    result = python("-m", "rescale_compat", training_script, "--help", RESCALE_COMPAT="0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: train.py ") and "--auto_resume" in result.stdout


def test_switched_off_the_command_and_the_plugin_still_import_basicsr() -> None:
    result = python("-c", "import rescale_model, basicsr", RESCALE_COMPAT="0")
    assert result.returncode == 0, result.stderr


def test_switched_off_starting_python_imports_nothing() -> None:
    result = python("-c", "import sys; print(*sys.modules)", RESCALE_COMPAT="0")
    assert "rescale_compat" not in result.stdout.split()


def test_the_module_runs_a_script_as_python_does(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "neighbor.py").touch()
    script = tmp_path / "folder" / "script.py"
    script.write_text(
        "import neighbor, sys\nprint(__name__, __file__, sys.argv, sys.path[0])\nsys.exit(3)\n"
    )
    plain = python(str(script), "-opt", "x.yml")
    ours = python("-m", "rescale_compat", str(script), "-opt", "x.yml")
    assert (ours.stdout, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, 3)


def test_worker_processes_of_a_script_import_basicsr_too(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing\n"
        "from torchvision.transforms.functional_tensor import rgb_to_grayscale\n"
        "def told():\n"
        "    return rgb_to_grayscale.__name__\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply_async(told).get(timeout=60))\n"
    )
    result = python("-m", "rescale_compat", str(script), RESCALE_COMPAT="0")
    assert result.stdout == "rgb_to_grayscale\n", result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: python -m rescale_compat SCRIPT [ARGUMENTS]"),
        (["-opt", "x.yml"], "usage: python -m rescale_compat SCRIPT [ARGUMENTS]"),
        (["missing.py"], "rescale_compat: no such script: missing.py"),
    ],
)
def test_the_module_says_what_it_needs(arguments: list[str], message: str) -> None:
    result = python("-m", "rescale_compat", *arguments)
    assert (result.returncode, result.stderr) == (1, message + "\n")


def test_functional_tensor_is_the_private_module() -> None:
    code = (
        "from torchvision.transforms import functional_tensor as public\n"
        "from torchvision.transforms import _functional_tensor as private\n"
        "assert public.__file__ == private.__file__, public\n"
        "assert public.__name__ == 'torchvision.transforms.functional_tensor', public\n"
        "assert private.__spec__.name == 'torchvision.transforms._functional_tensor', private\n"
    )
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("has_ops", [True, False])
def test_operators_are_declared_only_where_they_are_missing(tmp_path: Path, has_ops: bool) -> None:
    fake_torchvision(tmp_path, has_ops)
    code = (
        "import torch, torchvision\n"
        "for name in ('nms', 'qnms'):\n"
        f"    assert hasattr(torch.ops.torchvision, name) is not {has_ops}, name\n"
    )
    result = python("-c", code, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr


def test_declared_operators_survive_a_second_import(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, has_ops=False)
    code = (
        "import sys, torchvision\n"
        "del sys.modules['torchvision._meta_registrations']\n"
        "import torch, torchvision._meta_registrations\n"
        "assert hasattr(torch.ops.torchvision, 'nms')\n"
    )
    result = python("-c", code, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr


def test_a_public_functional_tensor_wins(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, has_ops=True)
    code = "import torchvision.transforms.functional_tensor as t; print(t.origin)"
    assert python("-c", code, PYTHONPATH=str(tmp_path)).stdout == "private\n"
    (tmp_path / "torchvision/transforms/functional_tensor.py").write_text("origin = 'public'\n")
    assert python("-c", code, PYTHONPATH=str(tmp_path)).stdout == "public\n"


def test_other_missing_modules_are_still_missing(tmp_path: Path) -> None:
    fake_torchvision(tmp_path, has_ops=True)
    (tmp_path / "torchvision/transforms/_functional_tensor.py").unlink()
    for name in ("torchvision.transforms.functional_tensor", "torchvision.nowhere"):
        result = python("-c", f"import {name}", PYTHONPATH=str(tmp_path))
        assert f"No module named '{name}'" in result.stderr


def test_importing_loads_no_other_module() -> None:
    code = (
        "import os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "before = set(sys.modules)\n"
        "import rescale_compat\n"
        "print(*(set(sys.modules) - before))\n"
    )
    assert python("-S", "-c", code).stdout.split() == ["rescale_compat"]


def test_starting_python_imports_the_hook_and_nothing_heavy() -> None:
    result = python("-c", "import sys; print(*sys.modules)")
    loaded = set(result.stdout.split())
    assert "rescale_compat" in loaded
    assert not loaded & {"torch", "torchvision", "numpy", "basicsr", "importlib.util", "typing"}


def test_installing_again_changes_nothing() -> None:
    before = finders()
    assert len(before) == 2
    rescale_compat.install()
    assert finders() == before


def test_reloading_changes_nothing() -> None:
    code = (
        "import importlib, sys, rescale_compat\n"
        "before = list(sys.meta_path)\n"
        "importlib.reload(rescale_compat)\n"
        "assert sys.meta_path == before\n"
    )
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
