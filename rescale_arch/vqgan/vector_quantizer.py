"""Vector quantization: the nearest codes of a codebook."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SEARCHED_AT_ONCE = 2**24  # maximum size of the distance matrix: 64 MiB


class VectorQuantizer(nn.Module):
    """Replaces each feature vector by the nearest vector of the codebook.

    Args:
        n_embed: number of codes.
        embed_dim: channels of a code.

    Shape:
        (B, embed_dim, h, w) -> codes (B, embed_dim, h, w), indices (B, h, w)
    """

    def __init__(self, n_embed: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_embed, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / n_embed, 1 / n_embed)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Uses the Euclidean distance; ties are resolved in favor of the first code."""
        indices = self.nearest(z.permute(0, 2, 3, 1))
        codes: Tensor = self.embedding(indices)
        return codes.permute(0, 3, 1, 2), indices

    @torch.no_grad()
    def nearest(self, vectors: Tensor, at_once: int = _SEARCHED_AT_ONCE) -> Tensor:
        """Index of the nearest code of each vector: (..., embed_dim) -> (...).

        Args:
            vectors: any number of vectors.
            at_once: number of distances to keep in memory (at least those of one vector).
        """
        book = self.embedding.weight
        norms = book.square().sum(1)
        with torch.autocast(book.device.type, enabled=False):
            flat = vectors.reshape(-1, book.shape[1]).to(book.dtype)
            # A graph for images of any size has no loop over parts.
            is_traced = torch.compiler.is_compiling()
            parts = [flat] if is_traced else flat.split(max(1, at_once // book.shape[0]))
            # |v - e|^2 minus |v|^2, which is the same for all codes
            indices = [torch.addmm(norms, part, book.T, alpha=-2).argmin(1) for part in parts]
        return torch.cat(indices).view(vectors.shape[:-1])


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """The value of ``codes`` with the gradient of ``z``."""
    return codes.detach() + (z - z.detach())
