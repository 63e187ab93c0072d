"""Small trainings for tests: option files, models built from them, and the real runners."""

import copy
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import torch
import yaml
from basicsr.utils import logger as basicsr_logger
from tiny_networks import AIDN_TINY
from torch import Tensor, nn

from rescale_model import runner

PLUGIN = "plugin: !!python/name:rescale_model.register\n"
Options = dict[str, Any]
Make = Callable[..., Any]
"""Builds a model from options with changes."""
Check = Callable[..., None]
"""Writes an option file and checks it."""
NETWORK: Options = {"type": "AIDN", **AIDN_TINY}
METRICS = {
    "psnr_y": {"type": "calculate_psnr", "test_y_channel": True},
    "lr_psnr": {"type": "calculate_psnr", "image": "lr"},
}
_LOGGED = re.compile(
    r"iter:\s*([\d,]+), lr:\(([^,]+),\)\].*l_pix: (\S+) l_guide: (\S+) scale: (\S+)"
)


def changed(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with other values: ``{"train: ema_decay": 0.9}``; ``...`` removes the key."""
    result = copy.deepcopy(dict(options))
    for path, value in changes.items():
        *sections, key = path.split(": ")
        section = result
        for name in sections:
            section = section[name]
        if value is ...:
            del section[key]
        else:
            section[key] = value
    return result


def named(**changes: Any) -> Options:
    """Changes as keyword arguments: ``train__ema_decay=0.9`` is ``{"train: ema_decay": 0.9}``."""
    return {name.replace("__", ": "): value for name, value in changes.items()}


def train_options(lmdb: Path, hr_folder: Path, **top: Any) -> dict[str, Any]:
    """Trains from ``lmdb`` for 30 iterations and validates ``images``, all on the CPU."""
    return {
        "name": "small",
        "model_type": "AIDNModel",
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": {
                "name": "crops",
                "type": "HRImageDataset",
                "dataroot_gt": str(lmdb),
                "io_backend": {"type": "lmdb"},
                "gt_size": 32,
                "use_hflip": True,
                "use_rot": True,
                "num_worker_per_gpu": 0,
                "batch_size_per_gpu": 2,
                "dataset_enlarge_ratio": 4,
            },
            "val": {
                "name": "whole",
                "type": "HRImageDataset",
                "dataroot_gt": str(hr_folder),
                "io_backend": {"type": "disk"},
            },
        },
        "network_g": dict(NETWORK),
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.9,
            "optim_g": {"type": "Adam", "lr": 2e-3, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": [20], "gamma": 0.5},
            "total_iter": 30,
            "scales": {"integer_iter": 2},
            "pixel_opt": {"type": "L1Loss"},
            "guide_opt": {"type": "MSELoss"},
        },
        "val": {
            "val_freq": 20,
            "save_img": False,
            "precision": "fp32",  # as tests do here, on every CPU
            "scales": [2.5],
            "metrics": copy.deepcopy(METRICS),
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 20, "use_tb_logger": False},
        **top,
    }


def test_options(hr_folder: Path, weights: Path, **top: Any) -> dict[str, Any]:
    """Tests ``weights`` on ``images`` at a factor and at a pair of factors."""
    return {
        "name": "evaluated",
        "model_type": "AIDNModel",
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "test_1": {
                "name": "whole",
                "type": "HRImageDataset",
                "dataroot_gt": str(hr_folder),
                "io_backend": {"type": "disk"},
            }
        },
        "network_g": dict(NETWORK),
        "path": {
            "pretrain_network_g": str(weights),
            "strict_load_g": True,
            "param_key_g": "params",
        },
        "val": {
            "save_img": True,
            "scales": [2.5, [1.5, 3]],
            "metrics": copy.deepcopy(METRICS),
        },
        **top,
    }


test_options.__test__ = False  # type: ignore[attr-defined]  # pytest takes the name for a test


def write_options(path: Path, options: Mapping[str, Any]) -> Path:
    """Writes an option file, with the line that makes the project known to BasicSR."""
    path.write_text(PLUGIN + yaml.safe_dump(dict(options), sort_keys=False))
    return path


def model_options(options: Mapping[str, Any], folder: Path, *, is_train: bool) -> dict[str, Any]:
    """The options that a model receives: those of a file after BasicSR has read them."""
    opt = copy.deepcopy(dict(options))
    opt |= {"is_train": is_train, "dist": False, "rank": 0, "world_size": 1}
    for phase, dataset in opt["datasets"].items():
        dataset["phase"] = phase.partition("_")[0]
    for key in ("models", "training_states", "visualization"):
        opt["path"][key] = str(folder / key)
        (folder / key).mkdir(exist_ok=True)
    return opt


def step(model: Any, iteration: int, seed: int = 0, size: int = 32) -> None:
    """A training step of ``model`` on two random images, always the same ones for a seed."""
    torch.manual_seed(seed)
    model.feed_data({"gt": torch.rand(2, 3, size, size)})
    model.optimize_parameters(iteration)


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights as they are now."""
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@contextmanager
def fresh_logger() -> Iterator[None]:
    """BasicSR sets its logger up once in a process, for one run."""

    def reset() -> None:
        logger = logging.getLogger("basicsr")
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        basicsr_logger.initialized_logger.clear()

    reset()
    try:
        yield
    finally:
        reset()


def train(folder: Path, options: Mapping[str, Any], *arguments: str) -> None:
    """``rescale train`` with ``folder`` as the current one, in this process."""
    path = write_options(folder / "train.yml", options)
    with chdir(folder), fresh_logger():
        assert runner.train(["-opt", str(path), *arguments]) == 0


def test(folder: Path, options: Mapping[str, Any], *arguments: str) -> Path:
    """``rescale test`` in the same way; returns the folder of its tables."""
    path = write_options(folder / "test.yml", options)
    with chdir(folder), fresh_logger():
        assert runner.test(["-opt", str(path), *arguments]) == 0
    return folder / "results" / options["name"] / "visualization" / "whole"


test.__test__ = False  # type: ignore[attr-defined]


def command(
    folder: Path, *arguments: str | Path, modules: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs this interpreter in ``folder``, on one core; ``modules`` goes onto its path."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if modules is not None:
        environment["PYTHONPATH"] = str(modules)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def logged(experiment: Path) -> dict[int, dict[str, float]]:
    """Iteration -> ``lr``, ``l_pix``, ``l_guide``, ``scale``, from all logs of an experiment."""
    names = ("lr", "l_pix", "l_guide", "scale")
    found = {}
    for path in sorted(experiment.glob("train_*.log"), key=lambda path: path.stat().st_mtime):
        for match in _LOGGED.finditer(path.read_text()):
            values = map(float, match.groups()[1:])
            found[int(match[1].replace(",", ""))] = dict(zip(names, values, strict=True))
    return found
