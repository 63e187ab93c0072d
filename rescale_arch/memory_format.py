"""Channels-last weights, the fastest layout for convolutions on CPUs and GPUs."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def channels_last(net: Network) -> Network:
    """Converts the convolution weights of ``net`` to channels last, in place, and returns it.

    ``net.to(memory_format=torch.channels_last)`` fails for parameters with five dimensions, such as
    pools of experts. Values and state dict do not change.
    """
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net
