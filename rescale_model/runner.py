"""Runs BasicSR's train and test pipelines with this project registered, on any machine.

Differences from BasicSR: ``--launcher pytorch`` works without a GPU, the option file is checked
first, training continues to ``total_iter`` even with a small dataset, results are written to the
current folder, SIGTERM and Ctrl-C save before a training stops, and resuming is exact, also without
a GPU, and skips a damaged state. Without a launcher, ``num_gpu: auto`` uses one GPU.
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

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

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

from rescale_model.distributed import agree_on_seed
from rescale_model.models.base import RescalingModel
from rescale_model.options import check_options, read_options
from rescale_model.registration import register
from rescale_model.training.resume import newest_state, read_state
from rescale_model.training.sampler import DataPosition, ResumableSampler
from rescale_model.training.stop_signal import StopSignal


def train(argv: Sequence[str]) -> int:
    """``rescale train``, with the arguments of ``basicsr/train.py``.

    Args:
        argv: for example ``["-opt", "options/train/aidn.yml", "--auto_resume"]``.

    Returns:
        0; failures raise.

    Raises:
        OSError: a file is missing or cannot be written.
        ValueError: the option file is invalid, or a loss is not finite.
        SystemExit: 143 after SIGTERM, 130 after Ctrl-C; the state is saved before.
    """
    return _run(argv, is_train=True)


def test(argv: Sequence[str]) -> int:
    """``rescale test``, with the arguments of ``basicsr/test.py``; see :func:`train`."""
    return _run(argv, is_train=False)


test.__test__ = False  # type: ignore[attr-defined]  # not a pytest test


def _run(argv: Sequence[str], *, is_train: bool) -> int:
    register()
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-opt", default=None)
    parser.add_argument("--force_yml", nargs="+", default=())
    known = parser.parse_known_args(list(argv))[0]
    if known.opt is not None:  # otherwise, BasicSR's parser prints the usage
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
    """Imports the plugin that the option file names, as BasicSR does when it reads the file.

    This registers its classes before the options are checked.
    """
    plugin = read_options(path).get("plugin")
    if not isinstance(plugin, str) or "." not in plugin:
        return
    module, _, name = plugin.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise RescaleError(f"{path}: plugin {plugin}: {error}") from error
    if not hasattr(found, name):
        raise RescaleError(f"{path}: plugin {plugin}: module {module} has no {name}")


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _init_dist(launcher: str, **kwargs: Any) -> None:
    """BasicSR's ``init_dist``, which supports only NCCL, with gloo for machines without a GPU."""
    if torch.cuda.is_available() or launcher != "pytorch":
        init_dist(launcher, **kwargs)
    else:
        dist.init_process_group("gloo")


def _printed(options: Mapping[Any, Any]) -> str:
    """BasicSR's ``dict2str``, with support for keys that are not strings."""
    printed: str = dict2str(_with_text_keys(options))
    return printed


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(entry) for key, entry in value.items()}
    return value


def _parse_options(root: str, is_train: bool) -> tuple[dict[str, Any], argparse.Namespace]:
    """BasicSR's ``parse_options``, but without a launcher ``num_gpu: auto`` is one GPU.

    This project's models use one GPU per process; a launcher starts a process for each.
    """
    opt, arguments = parse_options(root, is_train=is_train)
    count = opt["num_gpu"]
    is_ours = issubclass(MODEL_REGISTRY.get(opt["model_type"]), RescalingModel)
    if is_ours and count > 1 and not opt["dist"] and _asked_for(arguments, "num_gpu") == "auto":
        opt["num_gpu"] = 1
        print(
            f"num_gpu: auto uses one of {count} GPUs; to use all: torchrun --nproc_per_node "
            f"{count} $(which rescale) .. --launcher pytorch",
            file=sys.stderr,
        )
    return opt, arguments


def _asked_for(arguments: argparse.Namespace, key: str) -> Any:
    """The value of a top-level option as specified by ``--force_yml`` or in the file."""
    for entry in reversed(arguments.force_yml or ()):
        name, _, value = entry.partition("=")
        if name.strip() == key:
            return value.strip()
    return read_options(arguments.opt).get(key)


def _set_loading_defaults(dataset: dict[str, Any], on_gpu: bool) -> None:
    """Sets defaults for missing options of BasicSR's data loader.

    Batches for a GPU are pinned, so that they are copied asynchronously. Workers are persistent:
    with NCCL they are spawned, which takes seconds per epoch.

    Raises:
        ValueError: ``persistent_workers`` with ``prefetch_mode: cpu``, whose prefetch thread of one
            epoch would consume batches of the next.
    """
    if dataset.get("pin_memory") is None:
        dataset["pin_memory"] = on_gpu
    has_thread = dataset.get("prefetch_mode") == "cpu"
    if dataset.get("persistent_workers") is None:
        dataset["persistent_workers"] = dataset["num_worker_per_gpu"] > 0 and not has_thread
    elif dataset["persistent_workers"] and has_thread:
        raise RescaleError(
            "datasets: train: persistent_workers: true is not supported with prefetch_mode: cpu: "
            "omit one of them"
        )


class _Training:
    """Replacements for parts of BasicSR's training, and their shared state."""

    def __init__(self) -> None:
        self.stop = StopSignal()
        self._start = DataPosition()
        self._iteration = 0
        self._warnings: list[str] = []  # logged when the log file exists

    def load_resume_state(self, opt: dict[str, Any]) -> dict[str, Any] | None:
        """Replaces BasicSR's function, which needs a GPU, accepts any file, and ignores seeds.

        The state is loaded on the CPU; the optimizers move it to their device.
        """
        agree_on_seed(opt)
        path = opt["path"].get("resume_state")
        if opt["auto_resume"]:
            newest, self._warnings = newest_state(opt)
            path = newest or path
        if not path:
            return None
        state = read_state(path)
        seed = state.get("seed", opt["manual_seed"])
        if seed != opt["manual_seed"]:
            self._warnings.append(f"Using the seed of the training state, {seed}")
            opt["manual_seed"] = seed
        self._start = DataPosition(state["epoch"], state.get("samples", 0))
        self._iteration = state["iter"]
        opt["path"]["resume_state"] = path
        check_resume(opt, state["iter"])
        return state

    def create_loaders(self, opt: dict[str, Any], logger: logging.Logger) -> tuple[Any, ...]:
        """Wraps BasicSR's function, which counts an incomplete last batch that is in fact dropped.

        With its number of epochs, training would stop before ``total_iter``, or immediately with
        few images. :class:`~rescale_model.training.sampler.ResumableSampler` orders the data.
        """
        for warning in self._warnings:
            logger.warning(warning)
        _set_loading_defaults(opt["datasets"]["train"], on_gpu=opt["num_gpu"] > 0)
        sampler_type = partial(ResumableSampler, seed=opt["manual_seed"], start=self._start)
        with _replaced(basicsr.train, "EnlargedSampler", sampler_type):
            train, sampler, val, _, total_iter = create_train_val_dataloader(opt, logger)
        if len(train) == 0:
            raise RescaleError(
                f"datasets: train: {len(sampler)} images do not fill a batch of "
                f"{train.batch_size}: raise dataset_enlarge_ratio"
            )
        # each epoch draws a number; the default generator would yield another one after resuming
        train.generator = torch.Generator().manual_seed(opt["manual_seed"])
        train.worker_init_fn = partial(_begin_worker, train.worker_init_fn)
        self._position = sampler.position
        # the current epoch may be nearly finished
        rest = math.ceil((total_iter - self._iteration) / len(train))
        return train, sampler, val, self._start.epoch + rest, total_iter

    def build_model(self, opt: dict[str, Any]) -> Any:
        """Wraps BasicSR's function, and passes the data position and stop signal to the model."""
        model = build_model(opt)
        if isinstance(model, RescalingModel):
            model.data_position, model.stop = self._position, self.stop
            self.stop.listen()
        return model


def _begin_worker(begin: Callable[[int], None] | None, worker: int) -> None:
    """Initializes a data loader worker.

    It gets a separate process group, since a signal to the whole group, such as Ctrl-C, must not
    terminate it: a step may be waiting for its data.
    """
    os.setpgid(0, 0)
    if begin is not None:
        begin(worker)
