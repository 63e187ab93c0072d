"""Distributed training: wrapping networks, and communication between ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from rescale_compat.errors import RescaleError

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Returns the values of all ranks, in order of rank, on every rank; all ranks must call it.

    Args:
        value: value of this rank; must be picklable.

    Returns:
        ``[value]`` in a run that is not distributed.
    """
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """Returns the value of rank 0 on every rank; all ranks must call it."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_buffers(nets: Iterable[nn.Module]) -> None:
    """Copies the buffers of rank 0, such as batch statistics, to the other ranks."""
    if dist.is_initialized():
        for net in nets:
            for buffer in net.buffers():
                dist.broadcast(buffer, src=0)


def agree_on_seed(opt: dict[str, Any]) -> None:
    """Sets the seed of rank 0 on all ranks, which draw different seeds without ``manual_seed``."""
    opt["manual_seed"] = broadcast(opt["manual_seed"])


def distribute(net: nn.Module, device: torch.device, opt: Mapping[str, Any]) -> nn.Module:
    """Wraps a network for distributed training, on a GPU or CPU.

    Args:
        net: network on ``device``.
        device: device of this rank.
        opt: all options of the run.

    Raises:
        ValueError: ``sync_bn`` without a GPU, which PyTorch does not support.
    """
    on_gpu = device.type == "cuda"
    if opt.get("sync_bn"):
        if not on_gpu:
            raise RescaleError("option sync_bn: synchronized batch norm requires a GPU")
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return DistributedDataParallel(
        net,
        device_ids=[torch.cuda.current_device()] if on_gpu else None,
        find_unused_parameters=opt.get("find_unused_parameters", False),
    )
