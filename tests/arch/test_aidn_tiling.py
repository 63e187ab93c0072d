"""AIDN in bands and strips against the layers run one after the other on the whole image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import AIDN_TINY
from torch import Tensor

from rescale_arch import AIDN, lr_size
from rescale_arch.aidn import feature_window, streaming

Pair = tuple[float, float]


@pytest.fixture(autouse=True)
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of few rows, so that small images have many of them."""
    monkeypatch.setattr(streaming, "_LEAST_ROWS", 9)
    monkeypatch.setattr(streaming, "_STRIP_BYTES", (1, 1))


def network(offsets: float = 1.0, fixed_scale: int | None = None, **more: Any) -> AIDN:
    """A network whose learned offsets are ``offsets`` times their initial size."""
    torch.manual_seed(0)
    options = AIDN_TINY if fixed_scale is None else {"num_feat": 8, "num_block": 2}
    net = AIDN(**options, **more, fixed_scale=fixed_scale).eval().requires_grad_(False)
    for trunk in (net.down_net, net.up_net):
        if trunk.sa_sample is not None:
            trunk.sa_sample.offset.weight.mul_(offsets)
        for layer in trunk.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(layer.running_mean, std=0.1)
                torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    return net


def layer_by_layer(net: AIDN, hr: Tensor, lr: Tensor, scale: float | Pair) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():  # strips are for inference
        small = net.downscale(hr, scale)
        return small, net.upscale(lr, scale, size=(hr.shape[-2], hr.shape[-1]))


class Canvas:
    """An image that is read and written in regions, each pixel written once."""

    def __init__(self, source: Tensor, size: tuple[int, int]) -> None:
        self.source = source
        self.result = torch.full((1, 3, *size), torch.nan, dtype=source.dtype)
        self.largest = 0

    def read(self, top: int, left: int, bottom: int, right: int) -> Tensor:
        assert 0 <= top < bottom <= self.source.shape[-2]
        assert 0 <= left < right <= self.source.shape[-1]
        self.largest = max(self.largest, (bottom - top) * (right - left))
        return self.source[:, :, top:bottom, left:right]

    def write(self, top: int, left: int, pixels: Tensor) -> None:
        region = self.result[:, :, top : top + pixels.shape[-2], left : left + pixels.shape[-1]]
        assert region.shape == pixels.shape
        assert region.isnan().all(), "written twice"
        region.copy_(pixels)


def tiled(
    net: AIDN, hr: Tensor, lr: Tensor, scale: float | Pair | None, tile: int
) -> tuple[Tensor, Tensor]:
    size = (hr.shape[-2], hr.shape[-1])
    down = Canvas(hr, (lr.shape[-2], lr.shape[-1]))
    net.downscale_tiles(size, scale, down.read, down.write, tile)
    up = Canvas(lr, size)
    net.upscale_tiles(size, scale, up.read, up.write, tile)
    return down.result, up.result


def check(
    net: AIDN,
    size: tuple[int, int],
    scale: float | Pair,
    tile: int,
    dtype: torch.dtype = torch.float32,
    tolerance: float = 1e-5,
) -> None:
    generator = torch.Generator().manual_seed(size[0] * size[1] + tile)
    net = net.to(dtype)
    hr = torch.rand(1, 3, *size, generator=generator, dtype=dtype)
    lr = torch.rand(1, 3, *lr_size(size, scale), generator=generator, dtype=dtype)
    expected = layer_by_layer(net, hr, lr, scale)
    with torch.no_grad():
        whole = net.downscale(hr, scale), net.upscale(lr, scale, size=size)
    for ours, theirs in zip(whole + tiled(net, hr, lr, scale, tile), expected * 2, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


SIDES = st.integers(8, 50)
SCALES = st.floats(1.01, 4.0) | st.tuples(st.floats(1.0, 4.0), st.floats(1.01, 4.0))


@pytest.mark.parametrize("unshuffle", [1, 2, 3])
@given(height=SIDES, width=SIDES, scale=SCALES, tile=st.integers(12, 60))
@settings(max_examples=15)
def test_tiles_give_what_the_whole_does(
    unshuffle: int, height: int, width: int, scale: float | Pair, tile: int
) -> None:
    check(network(10.0, down_unshuffle=unshuffle), (height, width), scale, tile)


@pytest.mark.parametrize("unshuffle", [1, 2])
@given(
    height=SIDES,
    width=SIDES,
    scale=SCALES,
    tile=st.integers(12, 60),
    offsets=st.sampled_from([300.0, 1e3, 1e5]),
)
@settings(max_examples=15)
def test_offsets_of_any_size_are_followed(
    unshuffle: int, height: int, width: int, scale: float | Pair, tile: int, offsets: float
) -> None:
    """In double precision, since offsets that large enlarge all rounding errors as well."""
    check(
        network(offsets, down_unshuffle=unshuffle),
        (height, width),
        scale,
        tile,
        torch.float64,
        1e-8,
    )


@given(SIDES, SIDES, st.sampled_from([2, 3, 4]), st.integers(4, 80))
@settings(max_examples=15)
def test_tiles_of_a_fixed_scale_give_what_the_whole_does(
    height: int, width: int, scale: int, tile: int
) -> None:
    check(network(fixed_scale=scale), (height, width), scale, tile)


def test_the_margin_of_the_start_does_not_always_suffice() -> None:
    """Otherwise, the property above would test nothing."""
    net = network(300.0)
    seen: list[Tensor] = []
    net.up_net.sa_sample.offset.register_forward_hook(lambda _, __, out: seen.append(out))
    layer_by_layer(net, torch.rand(1, 3, 80, 80), torch.rand(1, 3, 40, 40), 2.0)
    assert seen[0].abs().max() > 4 * feature_window._MARGIN


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_the_reach_of_the_trunk_is_counted(unshuffle: int) -> None:
    """A row that changes moves the features of as many rows to either side."""
    net = AIDN(num_feat=8, num_block=3, adapt_interval=2, down_unshuffle=unshuffle).eval().double()
    trunk = net.down_net
    features: list[Tensor] = []
    trunk.sa_sample.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    hr = torch.rand(1, 3, 61 * unshuffle, 61, dtype=torch.float64)
    net.downscale(hr, 2.0)
    hr[:, :, 30 * unshuffle] += 0.5
    net.downscale(hr, 2.0)
    rows = (features[0] != features[1]).flatten(0, 1).any(0).any(-1).nonzero()
    lag = streaming.StreamingTrunk(trunk, (0.5, 0.5), torch.float64).lag
    assert [rows.min().item(), rows.max().item()] == [30 - lag, 30 + lag]


@pytest.mark.parametrize("options", [{}, {"down_unshuffle": 2, "down_num_feat": 24}])
@torch.no_grad()
def test_full_network_in_tiles(options: dict[str, Any]) -> None:
    """The reach of 16 blocks and 4 scale adaptions is 50 pixels: a band is narrower."""
    torch.manual_seed(0)
    net = AIDN(num_feat=16, **options).eval()
    hr = torch.rand(1, 3, 60, 150)
    lr = torch.rand(1, 3, *lr_size((60, 150), 1.7))
    for ours, theirs in zip(
        tiled(net, hr, lr, 1.7, 40), layer_by_layer(net, hr, lr, 1.7), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("unshuffle", [1, 2])
@torch.no_grad()
def test_a_batch_runs_in_strips(unshuffle: int) -> None:
    net = network(10.0, down_unshuffle=unshuffle)
    hr, lr = torch.rand(3, 3, 41, 37), torch.rand(3, 3, *lr_size((41, 37), 2.3))
    ours = net.downscale(hr, 2.3), net.upscale(lr, 2.3, size=(41, 37))
    for a, b in zip(ours, layer_by_layer(net, hr, lr, 2.3), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_synchronized_batch_norm_runs_in_tiles() -> None:
    """As `sync_bn` makes it."""
    net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network(10.0))
    assert any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in net.modules())
    check(net, (41, 37), 2.3, 24)


def test_an_engine_can_be_chosen() -> None:
    net = network(10.0)
    calls: list[object] = []
    net.down_net.register_forward_hook(lambda *_: calls.append(None))
    hr = torch.rand(1, 3, 24, 20)
    results = []
    for engine in ("strips", "layers", "auto"):
        net.engine = engine
        with torch.no_grad():
            results.append(net.downscale(hr, 2.0))
        assert len(calls) == (0 if engine == "strips" else 1)  # "auto": strips, on a CPU
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)
    assert torch.equal(results[0], results[2])
    net.engine = "strips"
    with pytest.raises(ValueError, match="engine 'strips' needs evaluation mode"):
        net.downscale(hr, 2.0)


@torch.no_grad()
def test_regions_do_not_grow_with_the_image() -> None:
    net = network()
    largest = []
    for side in (90, 200):
        canvas = Canvas(torch.rand(1, 3, side, side), lr_size((side, side), 2.0))
        net.downscale_tiles((side, side), 2.0, canvas.read, canvas.write, 16)
        largest.append(canvas.largest)
    assert largest[0] == largest[1]


@torch.no_grad()
def test_a_far_corner_is_as_exact_as_a_near_one() -> None:
    """Positions in single precision are 1e-3 pixels off at the far end of an 8K side."""
    net = network()
    hr = torch.rand(1, 3, 8, 100).repeat(1, 1, 1, 80)  # the period is a multiple of the scale
    lr = net.downscale(hr, 2.5)
    torch.testing.assert_close(lr[..., 400:440], lr[..., 2800:2840], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(8, 5000), (5000, 8)], ids=["wide", "tall"])
def test_half_precision_networks_place_samples_exactly(
    size: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 tells whole pixels apart up to 256, float16 up to 2,048."""
    monkeypatch.undo()  # strips of the usual height: fewer are faster
    net = network(10.0)
    scale = 2.3
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(1, 3, *size, generator=generator)
    lr = torch.rand(1, 3, *lr_size(size, scale), generator=generator)
    exact = layer_by_layer(net, hr, lr, scale)
    net = net.to(dtype)
    hr, lr = hr.to(dtype), lr.to(dtype)
    rounded = layer_by_layer(net, hr, lr, scale)
    with torch.no_grad():
        whole = net.downscale(hr, scale), net.upscale(lr, scale, size=size)
    for ours in (whole, tiled(net, hr, lr, scale, 3000)):
        for mine, theirs, expected in zip(ours, rounded, exact, strict=True):
            assert mine.dtype == dtype
            error = (mine - expected).abs().mean()
            assert error < 1.2 * (theirs - expected).abs().mean()


@torch.no_grad()
def test_nan_weights_give_nan_results() -> None:
    net = network()
    net.up_net.get_parameter("sa_sample.offset.bias").fill_(torch.nan)
    net.up_net.get_parameter("sa_sample.body.2.bias").fill_(torch.nan)
    assert net.upscale(torch.rand(1, 3, 10, 10), 2.0, size=(20, 20)).isnan().any()


def test_bad_arguments_are_named() -> None:
    canvas = Canvas(torch.rand(1, 3, 16, 16), (8, 8))
    net = network()
    for call in (net.downscale_tiles, net.upscale_tiles):
        with pytest.raises(ValueError, match="tile is 0"):
            call((16, 16), 2.0, canvas.read, canvas.write, 0)
        with pytest.raises(ValueError, match=r"\(7, 16\) has a side below 8"):
            call((7, 16), 2.0, canvas.read, canvas.write, 8)
        with pytest.raises(ValueError, match="scale 9 is out of range"):
            call((16, 16), 9.0, canvas.read, canvas.write, 8)
    net.train()
    with pytest.raises(ValueError, match="training mode"):
        net.downscale_tiles((16, 16), 2.0, canvas.read, canvas.write, 8)


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_the_forward_compiles_in_one_graph(unshuffle: int) -> None:
    net = network(down_unshuffle=unshuffle)
    hr = torch.rand(1, 3, 24, 21)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        for ours, theirs in zip(compiled(hr, 2.0), net(hr, 2.0), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
