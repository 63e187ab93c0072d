"""Runs in processes of their own, those that are interrupted, and comparisons of what they save."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Any

import torch
from torch import Tensor
from training import Options, command, logged, write_options

TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def torchrun(folder: Path, kind: str, options: Options, *arguments: str) -> None:
    """``rescale train`` or ``rescale test`` in two processes on the CPU."""
    path = write_options(folder / f"{kind}.yml", options)
    result = command(
        folder,
        *TWO_PROCESSES,
        *("-m", "rescale_app.cli", kind, "-opt", path, "--launcher", "pytorch", *arguments),
    )
    assert result.returncode == 0, result.stderr


def copy_basicsr(folder: Path) -> None:
    """Copies the installed BasicSR into ``folder``, to run its scripts there."""
    spec = find_spec("basicsr")
    assert spec is not None and spec.submodule_search_locations
    copytree(spec.submodule_search_locations[0], folder / "basicsr")


@contextmanager
def running(folder: Path, options: Options, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """``rescale train`` in a separate process, which is terminated at the end of the block."""
    path = write_options(folder / "train.yml", options)
    with open(folder / "output.txt", "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rescale_app.cli", "train", "-opt", str(path), *arguments],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_iteration(process: subprocess.Popen[bytes], experiment: Path, least: int) -> None:
    """Returns once the log of ``experiment`` has reached an iteration."""
    for _ in range(6000):
        if max(logged(experiment), default=0) >= least:
            return
        assert process.poll() is None, (experiment.parents[1] / "output.txt").read_text()
        time.sleep(0.05)
    raise TimeoutError(f"no iteration {least} in five minutes")


def forget_after(experiment: Path, iteration: int) -> None:
    """Restores the folder to its state just after ``iteration`` was saved."""
    for path in [*experiment.rglob("*.pth"), *experiment.rglob("*.state")]:
        number = path.stem.split("_")[-1]
        if not number.isdecimal() or int(number) > iteration:
            path.unlink()
    for log in experiment.glob("*.log"):
        log.unlink()


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """To the bit, and in the memory format of tensors as well."""
    assert type(found) is type(expected), where
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected), where
        assert found.stride() == expected.stride(), where
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_same(found[number], value, f"{where}[{number}]")
    else:
        assert found == expected, where


def assert_same_run(experiment: Path, expected: Path) -> None:
    """The same weights in the end, and the same state at the last save."""
    last = max(int(path.stem) for path in (expected / "training_states").iterdir())
    names = [f"training_states/{last}.state"]
    names += [f"models/{path.name}" for path in (expected / "models").glob("*_latest.pth")]
    for name in names:
        assert_same(torch.load(experiment / name), torch.load(expected / name), name)
