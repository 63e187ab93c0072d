"""An enlarged network computes the same as the smaller one, and all added weights can learn."""

from __future__ import annotations

from typing import Any

import pytest
import recipe
import torch
from tiny_networks import AIDN_TINY

from rescale_arch import AIDN
from rescale_arch.aidn.net2net import grow

HALF: dict[str, Any] = {**AIDN_TINY, "down_unshuffle": 2, "down_num_feat": 16}


@pytest.mark.parametrize(
    "large",
    [
        AIDN_TINY,
        {"num_feat": 16, "num_block": 2, "adapt_interval": 1},
        {"num_feat": 8, "num_block": 5, "adapt_interval": 1},
        {"num_feat": 24, "num_block": 6, "adapt_interval": 3},
        {"num_feat": 16, "num_block": 4, "adapt_interval": 1},
        {**AIDN_TINY, "num_block": 3, "down_num_feat": 16},
    ],
)
def test_computes_the_same(large: dict[str, Any]) -> None:
    check_same(AIDN_TINY, large)


@pytest.mark.parametrize("changes", [{"num_block": 4}, {"num_feat": 16}, {"down_num_feat": 24}])
def test_computes_the_same_with_an_unshuffle(changes: dict[str, Any]) -> None:
    check_same(HALF, {**HALF, **changes})


def check_same(small_options: dict[str, Any], large: dict[str, Any]) -> None:
    small = recipe.fill(AIDN(**small_options))
    net = AIDN(**large).eval()
    hr = torch.from_numpy(recipe.image(1, 25, 30))
    assert not torch.allclose(net.downscale(hr, 1.7), small.downscale(hr, 1.7), atol=1e-2)
    grow(net, small.state_dict())
    for ours, theirs in zip(net(hr, (1.7, 2.2)), small(hr, (1.7, 2.2)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_everything_that_was_added_learns() -> None:
    small = recipe.fill(AIDN(**AIDN_TINY))
    net = AIDN(num_feat=16, num_block=4, adapt_interval=1).train()
    grow(net, small.state_dict())
    start = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for seed in range(3):  # what nothing reads gets a gradient once something does
        hr = torch.from_numpy(recipe.image(seed, 24, 24))
        lr, restored = net(hr, 2.0)
        optimizer.zero_grad()
        ((restored - hr).abs().mean() + lr.square().mean()).backward()
        optimizer.step()
    trained = {name for name, value in net.named_parameters() if value.requires_grad}
    stuck = [name for name in trained if torch.equal(start[name], net.state_dict()[name])]
    assert stuck == []


@pytest.mark.parametrize(
    ("large", "message"),
    [
        ({"num_feat": 8, "num_block": 1, "adapt_interval": 1}, "num_block is 1, less than 2"),
        ({"num_feat": 16, "num_block": 4, "adapt_interval": 4}, "no scale adaption after block 2"),
        (
            {"num_feat": 16, "num_block": 2, "adapt_interval": 1, "num_crm_expert": 2},
            "num_crm_expert is 2, but 8",
        ),
        ({"num_feat": 16, "num_block": 2, "fixed_scale": 2}, "fixed_scale"),
        (HALF, "down_unshuffle is 2, but 1 in the weights"),
    ],
)
def test_what_does_not_grow(large: dict[str, Any], message: str) -> None:
    net = AIDN(**large)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        grow(net, AIDN(**AIDN_TINY).state_dict())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
