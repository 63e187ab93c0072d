"""``torch.compile`` of the parts of a network that gain by it, in place.

Not of whole networks: blocks of equal shape share what is compiled once, and control flow between
them stays Python. Names, state dicts and what is printed stay the same.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from rescale_arch import aidn_arch, vqgan_arch
from rescale_arch.aidn_arch import AIDN
from rescale_arch.conditional_resampling import ConditionalResampling
from rescale_arch.invertible import Attend, Coupling
from rescale_arch.scale_adaption import ScaleAdaption
from rescale_arch.strip_attention import StripAttention

_BLOCKS = (aidn_arch.ResidualBlock, ScaleAdaption, vqgan_arch.ResidualBlock, StripAttention)
_REVERSIBLE = (Coupling, Attend)  # run either way, so what they consist of is compiled


def compile_for_training(net: nn.Module) -> None:
    """Compiles the parts of ``net`` that see the same sizes in every step, as crops have one size.

    The gradient of a convolution is compiled for one size, so a part whose size changes with the
    scale would be compiled anew for each. Of an AIDN for any scale these parts are

    - the blocks of ``down_net``, at the size of the crops;
    - the resampling of ``up_net``, whose convolutions work at that size, too. Only what it samples
      from has another for each scale, which one compiled function takes.

    What works at LR size, on 1.2 to 16 times fewer pixels, is left as it is. VQGAN and VQIR have
    one size for each of their blocks.

    Args:
        net: AIDN, VQGAN or VQIR, on its device.

    Raises:
        ValueError: PyTorch cannot compile here; the message says what is missing.
    """
    if isinstance(net, AIDN) and net.fixed_scale is None:
        _compile(net, _blocks(net.down_net), dynamic=False)
        assert net.up_net.sa_sample is not None
        net.up_net.sa_sample.compile()  # finds out by itself what varies
    else:
        _compile(net, _blocks(net), dynamic=False)


def compile_for_inference(net: nn.Module) -> None:
    """Compiles the blocks of ``net`` for pictures of any size, without gradients.

    On a CPU, an AIDN in evaluation mode goes another way, which this leaves as it is.

    Args:
        net: AIDN or VQIR, on its device.

    Raises:
        ValueError: PyTorch cannot compile here; the message says what is missing.
    """
    resamplings = [part for part in net.modules() if isinstance(part, ConditionalResampling)]
    _compile(net, [*_blocks(net), *resamplings], dynamic=True)


def _blocks(net: nn.Module) -> list[nn.Module]:
    parts = list(net.modules())
    inside = [part.children() for part in parts if isinstance(part, _REVERSIBLE)]
    return [part for part in parts if isinstance(part, _BLOCKS)] + list(chain(*inside))


def _compile(net: nn.Module, parts: list[nn.Module], dynamic: bool) -> None:
    _check_compiler(next(net.parameters()).device)
    config = torch._dynamo.config
    # Parts of one class share a limit that means a single function. Each may need two: with
    # gradients and without.
    config.cache_size_limit = max(config.cache_size_limit, 2 * len(parts))
    for part in parts:
        part.compile(dynamic=dynamic)


def _check_compiler(device: torch.device) -> None:
    if not hasattr(torch.compiler, "set_stance"):
        raise ValueError(f"compile: PyTorch 2.6 or later is needed, this is {torch.__version__}")
    try:
        torch.compile(torch.sin)(torch.zeros(1, device=device))
    except RuntimeError as error:
        needed = "Triton" if device.type == "cuda" else "a C++ compiler, such as g++,"
        reason = str(error).splitlines()[0]
        raise ValueError(f"compile: on {device} {needed} is needed: {reason}") from error
