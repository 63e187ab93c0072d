"""BasicSR's train and test runners, with this project registered, for any machine.

They are BasicSR's own. What is mended: ``--launcher pytorch`` works without a GPU, the option file
is checked first, training goes on to ``total_iter`` however small the data set is, results go into
the current folder, SIGTERM and Ctrl-C save before they end a training, and a resumed one goes on
exactly where it was, also without a GPU and where the newest state is damaged. Without a launcher,
``num_gpu: auto`` takes one GPU.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import rescale_compat  # noqa: F401  first: it lets basicsr import

import basicsr.test
import basicsr.train
import basicsr.utils.options
import torch
import torch.distributed as dist
from basicsr.models import build_model
from basicsr.train import create_train_val_dataloader
from basicsr.utils import check_resume
from basicsr.utils.dist_util import init_dist
from basicsr.utils.options import dict2str, parse_options
from basicsr.utils.registry import MODEL_REGISTRY

from rescale_model.options import check_options, read_options
from rescale_model.registration import register
from rescale_model.rescaling_model import RescalingModel
from rescale_model.resume import (
    Progress,
    ResumableSampler,
    agree_on_seed,
    newest_state,
    read_state,
)
from rescale_model.stop_signal import StopSignal


def train(argv: Sequence[str]) -> int:
    """``rescale train``: takes the arguments of ``basicsr/train.py``.

    Args:
        argv: for instance ``["-opt", "options/train/aidn.yml", "--auto_resume"]``.

    Returns:
        0; failures raise.

    Raises:
        OSError: a file is missing or cannot be written.
        ValueError: the option file is wrong, or a loss is not finite.
        SystemExit: 143 after SIGTERM and 130 after Ctrl-C, which save first.
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
        _import_plugin(known.opt)
        check_options(known.opt, is_train=is_train, forced=known.force_yml)
    command = f"rescale {'train' if is_train else 'test'}"
    root = os.getcwd()
    pipeline = basicsr.train if is_train else basicsr.test
    training = _Training()
    with (
        _replaced(sys, "argv", [command, *argv]),
        _replaced(basicsr.utils.options, "init_dist", _init_dist),
        _replaced(basicsr.train, "dict2str", _printed),
        _replaced(basicsr.test, "dict2str", _printed),
        _replaced(pipeline, "parse_options", _parse_options),
        _replaced(basicsr.train, "load_resume_state", training.load_resume_state),
        _replaced(basicsr.train, "create_train_val_dataloader", training.create_loaders),
        _replaced(basicsr.train, "build_model", training.build_model),
    ):
        try:
            if is_train:
                basicsr.train.train_pipeline(root)
            else:
                basicsr.test.test_pipeline(root)
        finally:
            training.stop.close()
            if dist.is_initialized():
                dist.destroy_process_group()
    return 0


def _import_plugin(path: str) -> None:
    """Imports what the option file's plugin line names, as BasicSR does when it reads the file.

    The classes that it registers are then known to the check.
    """
    plugin = read_options(path).get("plugin")
    if not isinstance(plugin, str) or "." not in plugin:
        return
    module, _, name = plugin.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{path}: plugin {plugin}: {error}") from error
    if not hasattr(found, name):
        raise ValueError(f"{path}: plugin {plugin}: module {module} has no {name}")


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


def _printed(options: Mapping[Any, Any]) -> str:
    """BasicSR's ``dict2str``, which fails on keys that are not text."""
    printed: str = dict2str(_with_text_keys(options))
    return printed


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(entry) for key, entry in value.items()}
    return value


def _parse_options(root: str, is_train: bool) -> tuple[dict[str, Any], argparse.Namespace]:
    """BasicSR's, but without a launcher ``num_gpu: auto`` is one GPU.

    A process of this project's models uses one; a launcher starts a process for each.
    """
    opt, arguments = parse_options(root, is_train=is_train)
    count = opt["num_gpu"]
    is_ours = issubclass(MODEL_REGISTRY.get(opt["model_type"]), RescalingModel)
    if is_ours and count > 1 and not opt["dist"] and _asked_for(arguments, "num_gpu") == "auto":
        opt["num_gpu"] = 1
        print(
            f"num_gpu: auto takes one of the {count} GPUs; to use all: torchrun --nproc_per_node "
            f"{count} $(which rescale) .. --launcher pytorch",
            file=sys.stderr,
        )
    return opt, arguments


def _asked_for(arguments: argparse.Namespace, key: str) -> Any:
    """The value of a top-level option as given: by ``--force_yml``, or in the file."""
    for entry in reversed(arguments.force_yml or ()):
        name, _, value = entry.partition("=")
        if name.strip() == key:
            return value.strip()
    return read_options(arguments.opt).get(key)


def _set_loading_defaults(dataset: dict[str, Any], on_gpu: bool) -> None:
    """Sets options of BasicSR's loader that are not given.

    Batches for a GPU are pinned, without which their copy waits. Reading processes outlive an
    epoch: with NCCL they are spawned, which takes seconds.

    Raises:
        ValueError: ``persistent_workers`` with ``prefetch_mode: cpu``, whose thread of one epoch
            would take batches of the next.
    """
    if dataset.get("pin_memory") is None:
        dataset["pin_memory"] = on_gpu
    has_thread = dataset.get("prefetch_mode") == "cpu"
    if dataset.get("persistent_workers") is None:
        dataset["persistent_workers"] = dataset["num_worker_per_gpu"] > 0 and not has_thread
    elif dataset["persistent_workers"] and has_thread:
        raise ValueError(
            "datasets: train: persistent_workers is true, which prefetch_mode: cpu cannot have: "
            "leave one of them out"
        )


class _Training:
    """What BasicSR's training is given in place of its own steps, and what joins them."""

    def __init__(self) -> None:
        self.stop = StopSignal()
        self._start = Progress()
        self._iteration = 0
        self._remarks: list[str] = []  # the log is there later

    def load_resume_state(self, opt: dict[str, Any]) -> dict[str, Any] | None:
        """BasicSR's, which needs a GPU, takes any file, and lets a run without a seed draw another.

        The optimisers move the state to their own device anyway.
        """
        agree_on_seed(opt)
        path = opt["path"].get("resume_state")
        if opt["auto_resume"]:
            newest, self._remarks = newest_state(opt)
            path = newest or path
        if not path:
            return None
        state = read_state(path)
        seed = state.get("seed", opt["manual_seed"])
        if seed != opt["manual_seed"]:
            self._remarks.append(f"The seed is that of the training state, {seed}")
            opt["manual_seed"] = seed
        self._start = Progress(state["epoch"], state.get("samples", 0))
        self._iteration = state["iter"]
        opt["path"]["resume_state"] = path
        check_resume(opt, state["iter"])
        return state

    def create_loaders(self, opt: dict[str, Any], logger: logging.Logger) -> tuple[Any, ...]:
        """BasicSR's, which rounds the batches of an epoch up though an incomplete one is left out.

        Training would stop before ``total_iter``, with few images at once. The order of the data
        is :class:`~rescale_model.resume.ResumableSampler`'s.
        """
        for remark in self._remarks:
            logger.warning(remark)
        _set_loading_defaults(opt["datasets"]["train"], on_gpu=opt["num_gpu"] > 0)
        sampler_type = partial(ResumableSampler, seed=opt["manual_seed"], start=self._start)
        with _replaced(basicsr.train, "EnlargedSampler", sampler_type):
            train, sampler, val, _, total_iter = create_train_val_dataloader(opt, logger)
        if len(train) == 0:
            raise ValueError(
                f"datasets: train: {len(sampler)} images are no batch of {train.batch_size}: raise "
                "dataset_enlarge_ratio"
            )
        # each epoch draws a number from it: from the default one, resuming would draw another
        train.generator = torch.Generator().manual_seed(opt["manual_seed"])
        train.worker_init_fn = partial(_begin_worker, train.worker_init_fn)
        self._progress = sampler.progress
        # the present epoch may be nearly over
        rest = math.ceil((total_iter - self._iteration) / len(train))
        return train, sampler, val, self._start.epoch + rest, total_iter

    def build_model(self, opt: dict[str, Any]) -> Any:
        """BasicSR's; the model is told where it is in the data, and when to stop."""
        model = build_model(opt)
        if isinstance(model, RescalingModel):
            model.progress, model.stop = self._progress, self.stop
            self.stop.listen()
        return model


def _begin_worker(begin: Callable[[int], None] | None, worker: int) -> None:
    """Begins a process that reads data.

    In a process group of its own, for a signal to the whole group, as Ctrl-C is, must not end it:
    a step may be waiting for its data.
    """
    os.setpgid(0, 0)
    if begin is not None:
        begin(worker)
