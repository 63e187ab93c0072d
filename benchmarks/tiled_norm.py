"""Group norm of an image in tiles, with statistics that all tiles share.

An alternative to VQIR's tiles, which have statistics of their own, to compare with.
"""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch import VQIR
from rescale_arch.vqgan.layers import GroupNorm


class TiledGroupNorm(nn.Module):
    """Group norm that collects statistics from the tiles of an image, then normalises by these.

    While it collects, every tile is normalised by its own statistics. Those of a later norm thus
    are of tiles that an earlier one has normalised one by one: close to those of the whole image,
    but not the same. Exact ones would take a pass for every norm.

    Args:
        norm: the group norm of whole images.

    Attributes:
        collects: whether it collects.

    Shape:
        (1, C, H, W) -> the same
    """

    def __init__(self, norm: GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.collects = True
        self._positions = 0
        self._mean = self._var = torch.zeros(())  # (groups,) after the first tile

    def forward(self, x: Tensor) -> Tensor:
        """Normalises a tile."""
        if self.collects:
            self._add(x)
            out: Tensor = self.norm(x)
            return out
        mean, var = (
            one.repeat_interleave(self.norm.num_channels // self.norm.num_groups)
            for one in (self._mean, self._var)
        )
        return F.batch_norm(x, mean, var, self.norm.weight, self.norm.bias, eps=self.norm.eps)

    def _add(self, x: Tensor) -> None:
        grouped = x.unflatten(1, (self.norm.num_groups, -1))
        var, mean = torch.var_mean(grouped, dim=(0, 2, 3, 4), correction=0)
        positions = x.shape[-2] * x.shape[-1]
        self._positions += positions
        share = positions / self._positions
        between = share * (1 - share) * (mean - self._mean).square()
        self._var = self._var + share * (var - self._var) + between
        self._mean = self._mean + share * (mean - self._mean)


def with_tiled_norms(network: VQIR) -> VQIR:
    """A copy of ``network`` for the tiles of one image, which shares its parameters."""
    tensors = chain(network.parameters(), network.buffers())
    copied = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, GroupNorm):
                setattr(module, name, TiledGroupNorm(child))
    return copied


def end_collecting(network: VQIR) -> None:
    """Makes the group norms of a network from :func:`with_tiled_norms` use what they collected."""
    for module in network.modules():
        if isinstance(module, TiledGroupNorm):
            module.collects = False
