"""Channels-last weights: the layout that convolutions are fastest in, on CPUs and GPUs alike."""

from __future__ import annotations

import torch
from torch import nn


def channels_last(net: nn.Module) -> nn.Module:
    """Lays the convolution weights of ``net`` out channels last, in place, and returns it.

    ``net.to(memory_format=torch.channels_last)`` fails where a parameter has five axes, as pools of
    experts do. Values and state dict stay the same.
    """
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net
