"""BasicSR's train and test runners, with this project registered, for any machine.

They are BasicSR's own. What is mended: resuming and ``--launcher pytorch`` work without a GPU, the
option file is checked first, training goes on to ``total_iter`` however small the data set is, and
results go into the current folder.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rescale_compat  # noqa: F401  first: it lets basicsr import

import basicsr.test
import basicsr.train
import basicsr.utils.options
import torch
import torch.distributed as dist
from basicsr.train import create_train_val_dataloader
from basicsr.utils import check_resume
from basicsr.utils.dist_util import init_dist

from rescale_data.weight_file import read_weights
from rescale_model.options import check_options
from rescale_model.registration import register


def train(argv: Sequence[str]) -> int:
    """``rescale train``: takes the arguments of ``basicsr/train.py``.

    Args:
        argv: for instance ``["-opt", "options/train/aidn.yml", "--auto_resume"]``.

    Returns:
        0; failures raise.

    Raises:
        OSError: a file is missing or cannot be written.
        ValueError: the option file is wrong.
    """
    return _run(argv, is_train=True)


def test(argv: Sequence[str]) -> int:
    """``rescale test``: takes the arguments of ``basicsr/test.py``; otherwise as :func:`train`."""
    return _run(argv, is_train=False)


test.__test__ = False  # type: ignore[attr-defined]  # pytest takes the name for a test


def _run(argv: Sequence[str], *, is_train: bool) -> int:
    register()
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-opt", default=None)
    parser.add_argument("--force_yml", nargs="+", default=())
    known = parser.parse_known_args(list(argv))[0]
    if known.opt is not None:  # without it BasicSR's own parser prints the usage
        check_options(known.opt, is_train=is_train, forced=known.force_yml)
    command = f"rescale {'train' if is_train else 'test'}"
    root = os.getcwd()
    with (
        _replaced(sys, "argv", [command, *argv]),
        _replaced(basicsr.utils.options, "init_dist", _init_dist),
        _replaced(basicsr.train, "load_resume_state", _load_resume_state),
        _replaced(basicsr.train, "create_train_val_dataloader", _create_loaders),
    ):
        try:
            if is_train:
                basicsr.train.train_pipeline(root)
            else:
                basicsr.test.test_pipeline(root)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
    return 0


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _init_dist(launcher: str, **kwargs: Any) -> None:
    """BasicSR's, which knows NCCL alone; without a GPU processes talk by gloo."""
    if torch.cuda.is_available() or launcher != "pytorch":
        init_dist(launcher, **kwargs)
    else:
        dist.init_process_group("gloo")


def _load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """BasicSR's, which needs a GPU; the optimisers move the state to their own device anyway."""
    path = opt["path"].get("resume_state")
    if opt["auto_resume"]:
        path = _newest_state(opt["path"]["training_states"]) or path
    if not path:
        return None
    state = read_weights(path)
    lacking = [key for key in ("epoch", "iter", "optimizers", "schedulers") if key not in state]
    if lacking:
        raise ValueError(f"{path}: no training state, there is no {', '.join(lacking)}")
    opt["path"]["resume_state"] = path
    check_resume(opt, state["iter"])
    return state


def _create_loaders(opt: dict[str, Any], logger: logging.Logger) -> tuple[Any, ...]:
    """BasicSR's, which rounds the batches of an epoch up though an incomplete one is left out.

    Training would stop before ``total_iter``, with few images at once.
    """
    train, sampler, val, _, total_iter = create_train_val_dataloader(opt, logger)
    if len(train) == 0:
        raise ValueError(
            f"datasets: train: {len(sampler)} images are no batch of {train.batch_size}: raise "
            "dataset_enlarge_ratio"
        )
    return train, sampler, val, math.ceil(total_iter / len(train)), total_iter


def _newest_state(folder: str) -> str | None:
    if not os.path.isdir(folder):
        return None
    iterations = [
        int(stem)
        for stem, suffix in map(os.path.splitext, os.listdir(folder))
        if suffix == ".state" and stem.isdigit()
    ]
    return os.path.join(folder, f"{max(iterations)}.state") if iterations else None
