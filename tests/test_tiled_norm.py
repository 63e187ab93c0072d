"""The benchmark's group norm in tiles: with the statistics of all of them, it is the whole's."""

from __future__ import annotations

from itertools import pairwise, product

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tiled_norm import TiledGroupNorm, end_collecting, with_tiled_norms
from rescale_arch import VQIR
from rescale_arch.vqgan.layers import GroupNorm


@settings(max_examples=50)
@given(
    heights=st.lists(st.integers(2, 12), min_size=1, max_size=4),
    widths=st.lists(st.integers(2, 12), min_size=1, max_size=4),
    per_group=st.integers(1, 3),
)
def test_a_norm_in_tiles_of_any_size_is_that_of_the_whole(
    heights: list[int], widths: list[int], per_group: int
) -> None:
    rows, columns = (
        [sum(sides[:end]) for end in range(len(sides) + 1)] for sides in (heights, widths)
    )
    x = torch.randn(1, 32 * per_group, rows[-1], columns[-1])
    x = (x + 1) * torch.linspace(0.1, 2, columns[-1])  # mean and contrast differ between tiles
    whole = GroupNorm(32, 32 * per_group, eps=1e-6).requires_grad_(False)
    whole.weight.normal_(1, 0.3)
    whole.bias.normal_(0, 0.3)
    tiled = TiledGroupNorm(whole)
    windows = list(product(pairwise(rows), pairwise(columns)))
    for (top, bottom), (left, right) in windows:
        tile = x[..., top:bottom, left:right]
        assert torch.equal(tiled(tile), whole(tile))  # its own statistics, while collecting
    tiled.collects = False
    expected = whole(x)
    for (top, bottom), (left, right) in windows:
        torch.testing.assert_close(
            tiled(x[..., top:bottom, left:right]),
            expected[..., top:bottom, left:right],
            rtol=1e-4,
            atol=1e-3,
        )


@torch.inference_mode()
def test_statistics_of_the_whole_image_give_its_result() -> None:
    net = VQIR(ch=32, ch_mult=(1,) * 5, num_res_blocks=1, z_channels=32, embed_dim=32, n_embed=8)
    net.eval()
    before = [type(module) for module in net.modules()]
    tiled = with_tiled_norms(net)
    hr = torch.rand(1, 3, 64, 80)
    expected = net._features(hr)
    torch.testing.assert_close(tiled._features(hr), expected)
    tiled._features(hr * 0.5)
    end_collecting(tiled)
    assert not torch.allclose(tiled._features(hr), expected, atol=1e-3)
    again = with_tiled_norms(net)
    again._features(hr)
    end_collecting(again)
    torch.testing.assert_close(again._features(hr), expected, rtol=1e-3, atol=1e-4)
    assert [type(module) for module in net.modules()] == before
