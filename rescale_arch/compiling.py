"""In-place ``torch.compile`` of those parts of a network that benefit from it.

Blocks are compiled instead of whole networks: blocks of the same shape share the compiled code, and
the control flow between them remains in Python. Module names and state dicts do not change.
"""

from __future__ import annotations

from itertools import chain

from rescale_compat.errors import RescaleError

import torch
from torch import nn

from rescale_arch.aidn import trunk as aidn_trunk
from rescale_arch.aidn.conditional_resampling import ConditionalResampling
from rescale_arch.aidn.network import AIDN
from rescale_arch.aidn.scale_adaption import ScaleAdaption
from rescale_arch.vqgan import layers as vqgan_layers
from rescale_arch.vqir.invertible import AffineCoupling, SpatialAttention
from rescale_arch.vqir.strip_attention import StripAttention

_BLOCKS = (aidn_trunk.ResidualBlock, ScaleAdaption, vqgan_layers.ResidualBlock, StripAttention)
_REVERSIBLE = (AffineCoupling, SpatialAttention)  # run in both directions: children are compiled


def compile_for_training(net: nn.Module) -> None:
    """Compiles the parts of ``net`` whose input size is the same in every training step.

    The gradient of a convolution is compiled for a fixed size, so a part whose size changes with
    the scale would be recompiled for each scale. In an AIDN for any scale, the compiled parts are

    - the blocks of ``down_net``, which run at the size of the crops;
    - the resampling of ``up_net``, whose convolutions run at that size as well. Only the size of
      the features that it samples depends on the scale; one dynamic shape covers it.

    The layers at LR size, which process 1.2 to 16 times fewer pixels, are not compiled. In VQGAN
    and VQIR, every block has a fixed size.

    Args:
        net: AIDN, VQGAN or VQIR, on its device.

    Raises:
        ValueError: compiling is not possible; the message says what is missing.
    """
    if isinstance(net, AIDN) and net.fixed_scale is None:
        _compile(net, _blocks(net.down_net), dynamic=False)
        assert net.up_net.sa_sample is not None
        net.up_net.sa_sample.compile()  # detects dynamic dimensions itself
    else:
        _compile(net, _blocks(net), dynamic=False)


def compile_for_inference(net: nn.Module) -> None:
    """Compiles the blocks of ``net`` for images of any size, without gradients.

    On a CPU, an AIDN in evaluation mode uses its streaming engine, which is not compiled.

    Args:
        net: AIDN or VQIR, on its device.

    Raises:
        ValueError: compiling is not possible; the message says what is missing.
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
    # The cache limit applies per function, which all parts of a class share. Each part may need two
    # versions: with and without gradients.
    config.cache_size_limit = max(config.cache_size_limit, 2 * len(parts))
    for part in parts:
        part.compile(dynamic=dynamic)


def _check_compiler(device: torch.device) -> None:
    if not hasattr(torch.compiler, "set_stance"):
        raise RescaleError(f"compile requires PyTorch 2.6 or later, this is {torch.__version__}")
    try:
        torch.compile(torch.sin)(torch.zeros(1, device=device))
    except RuntimeError as error:
        needed = "Triton" if device.type == "cuda" else "a C++ compiler, such as g++"
        reason = str(error).splitlines()[0]
        raise RescaleError(f"compile on {device} requires {needed}: {reason}") from error
