"""Checkpoints of other programs: a hostile pickle, and what PyTorch Lightning writes."""

from __future__ import annotations

import sys
import types
import typing
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


class Foreign:
    """A class of a package that is not installed where the file is read."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class ForeignList(list[Any]):
    pass


class ForeignDict(dict[str, Any]):
    pass


@contextmanager
def installed(*names: str) -> Iterator[list[type]]:
    """Classes with these full names, importable for so long."""
    classes, modules = [], []
    for name in names:
        module, _, own = name.rpartition(".")
        base = {"ListConfig": ForeignList, "Bunch": ForeignDict}.get(own, Foreign)
        cls = type(own, (base,), {"__module__": module})
        for end in range(1, len(module.split(".")) + 1):
            part = ".".join(module.split(".")[:end])
            sys.modules.setdefault(part, types.ModuleType(part))
            modules.append(part)
        setattr(sys.modules[module], own, cls)
        classes.append(cls)
    try:
        yield classes
    finally:
        for part in modules:
            sys.modules.pop(part, None)


def lightning_checkpoint(path: Path, weights: dict[str, Tensor]) -> None:
    """What PyTorch Lightning writes, in all that matters here."""
    with installed(
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.base.Bunch",
    ) as (callback, config, config_list, bunch):
        entries = OrderedDict(weights)
        entries._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
        caches = defaultdict(dict, a={"b": 1})
        torch.save(
            {
                "epoch": 7,
                "global_step": 2**40,
                "pytorch-lightning_version": "1.0.8",
                "callbacks": {callback: {"best_model_score": np.float64(0.25), "path": Path("a")}},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
                "state_dict": entries,
                "hyper_parameters": config(
                    kind=typing.Any, list=config_list([1, 2]), cache=caches, bunch=bunch(a=1)
                ),
            },
            path,
        )
