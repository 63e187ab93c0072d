"""Optimized LR images: windows, fidelity, and gain."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import AIDN_TINY, tiny_vqir
from torch import Tensor

from rescale_app.included_weights import find_weights
from rescale_arch import AIDN, lr_size
from rescale_arch.architecture import Search, find_architecture, load_network
from rescale_arch.bicubic import bicubic_lr
from rescale_arch.lr_optimization import optimize_lr
from rescale_arch.lr_optimization.fidelity import bicubic_window
from rescale_arch.lr_optimization.windows import divide
from rescale_arch.regions import reader
from rescale_arch.rounding import quantize
from rescale_arch.scales import scale_pair
from rescale_data.image_file import read_image
from rescale_data.pixels import to_tensor
from rescale_data.weight_file import read_weights

Pair = tuple[float, float]
SCALES = st.floats(1.01, 4.0) | st.tuples(st.floats(1.0, 4.0), st.floats(1.01, 4.0))
WHOLE = Search(side=10_000, hr_side=40_000, ring=4, context=6, step=4e-3)


@cache
def random_aidn(fixed_scale: Any = None) -> AIDN:
    torch.manual_seed(0)
    options = AIDN_TINY if fixed_scale is None else {"num_feat": 8, "num_block": 2}
    return AIDN(**options, fixed_scale=fixed_scale).eval().requires_grad_(False)


@cache
def trained_aidn() -> Any:
    path = find_weights("aidn-small")
    return load_network(read_weights(path), str(path)).network


def bytes_of(image: Tensor) -> Tensor:
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def downscaled(net: Any, hr: Tensor, scale: Any) -> Tensor:
    with torch.inference_mode():
        return bytes_of(net.downscale(hr, scale))


def optimized(
    net: Any, hr: Tensor, scale: Any, steps: int, search: Search, **options: Any
) -> Tensor:
    lr, size = downscaled(net, hr, scale), (hr.shape[-2], hr.shape[-1])
    return optimize_lr(net, lr, reader(hr), size, scale, steps, search, **options)


def errors(net: Any, hr: Tensor, lr: Tensor, scale: Any) -> tuple[float, float]:
    """Mean square errors in 8 bits: of the restored image, and of ``lr`` against bicubic."""
    small = lr.float() / 255
    with torch.inference_mode():
        restored = quantize(net.upscale(small, scale, size=(hr.shape[-2], hr.shape[-1])))
        guide = quantize(bicubic_lr(hr, net.factors(scale)))
    return float((restored - hr).square().mean()), float((small - guide).square().mean())


def decibels(before: float, after: float) -> float:
    return float(10 * np.log10(before / after))


def hr_image(path: Path) -> Tensor:
    return to_tensor(read_image(path))


# a window of the restored image -------------------------------------------------------------------


@given(st.integers(8, 50), st.integers(8, 50), SCALES, st.data())
@settings(max_examples=25)
def test_a_window_of_aidn_is_that_of_the_whole(
    height: int, width: int, scale: float | Pair, data: st.DataObject
) -> None:
    net, size = random_aidn(), (height, width)
    lr = torch.rand(1, 3, *lr_size(size, scale))
    top, bottom = sorted(data.draw(st.sets(st.integers(0, height), min_size=2, max_size=2)))
    left, right = sorted(data.draw(st.sets(st.integers(0, width), min_size=2, max_size=2)))
    window = net.upscale_window(
        lr, scale, size=size, corner=(0, 0), window=(top, left, bottom, right)
    )
    whole = net.upscale(lr, scale, size=size)[..., top:bottom, left:right]
    torch.testing.assert_close(window, whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("fixed", [None, 2, 3, 4])
def test_a_part_of_the_lr_image_is_enough(fixed: int | None) -> None:
    net, scale = random_aidn(fixed), float(fixed or 2.37)
    size = 180, 201
    lr = torch.rand(1, 3, *net.lr_size(size, scale))
    top, left, bottom, right = (round(place * scale) for place in (20, 22, 26, 30))
    part = lr[..., 2:44, 3:50]
    window = net.upscale_window(
        part, scale, size=size, corner=(2, 3), window=(top, left, bottom, right)
    )
    whole = net.upscale(lr, scale, size=size)[..., top:bottom, left:right]
    torch.testing.assert_close(window, whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("factor", "stage"), [(16, 1), (16, 2), (32, 1), (32, 2)])
def test_a_window_of_vqir_is_that_of_the_whole(factor: int, stage: int) -> None:
    net = tiny_vqir(factor, stage).requires_grad_(False)
    size = 3 * factor - 5, 4 * factor
    lr = quantize(torch.rand(1, 3, 3, 4)).requires_grad_()
    window = 7, factor, 3 * factor - 5, 3 * factor + 1
    part = net.upscale_window(lr, None, size=size, corner=(0, 0), window=window)
    whole = net.upscale(lr, size=size)[..., 7:, factor : 3 * factor + 1]
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-5)
    part.square().sum().backward()
    assert lr.grad is not None
    assert lr.grad.abs().max() > 0


@given(st.integers(8, 70), st.integers(8, 70), SCALES)
@settings(max_examples=25)
def test_windows_of_the_bicubic_image_join(height: int, width: int, scale: float | Pair) -> None:
    hr, size, pair = torch.rand(1, 3, height, width), (height, width), scale_pair(scale)
    expected = quantize(bicubic_lr(hr, pair))
    small = lr_size(size, pair)
    search = Search(side=9, hr_side=100, ring=1, context=2, step=4e-3)
    seen = torch.zeros(small, dtype=torch.int)
    for window in divide(small, size, pair, search, 1):
        top, left, bottom, right = window.core
        seen[top:bottom, left:right] += 1
        part = bicubic_window(reader(hr), size, pair, window.core)
        difference = (part - expected[..., top:bottom, left:right]).abs().max()
        assert difference < 1.1 / 255  # a sample may be rounded otherwise
    assert bool((seen >= 1).all())


# the optimization ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "gain"), [(1.5, 0.8), (2.0, 0.8), (2.5, 0.5), ((3.0, 2.0), 0.5), (4.0, 0.3)]
)
def test_ten_steps_gain_and_leave_the_lr_image_as_faithful(
    scale: Any, gain: float, hr_folder: Path
) -> None:
    net, hr = trained_aidn(), hr_image(hr_folder / "astronaut.png")
    search = find_architecture("aidn").search
    assert search is not None
    lr = optimized(net, hr, scale, 10, search)
    before, after = (errors(net, hr, one, scale) for one in (downscaled(net, hr, scale), lr))
    assert decibels(before[0], after[0]) > gain
    assert decibels(before[1], after[1]) > -0.21


def test_no_step_changes_nothing() -> None:
    hr = torch.rand(1, 3, 40, 30)
    assert torch.equal(optimized(random_aidn(), hr, 2, 0, WHOLE), downscaled(random_aidn(), hr, 2))


def test_equal_images_get_equal_lr_images(hr_folder: Path) -> None:
    hr, net = hr_image(hr_folder / "coffee.png")[..., :60, :70], trained_aidn()
    search = replace(WHOLE, side=16)
    first, second = (optimized(net, hr, 2.2, 3, search) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, downscaled(net, hr, 2.2))


@pytest.mark.parametrize(("scale", "side"), [(2.0, 40), (3.3, 20)])
def test_windows_agree_with_the_whole(scale: float, side: int, hr_folder: Path) -> None:
    """Four windows, of a fraction of the usual size, with all the more edges between them."""
    net, hr = trained_aidn(), hr_image(hr_folder / "chelsea.png")
    whole = optimized(net, hr, scale, 10, WHOLE)
    search = find_architecture("aidn").search
    assert search is not None
    windows = optimized(net, hr, scale, 10, replace(search, side=side))
    one, many = (errors(net, hr, lr, scale)[0] for lr in (whole, windows))
    assert decibels(one, many) > -0.05


@given(st.integers(8, 40), st.integers(8, 40), SCALES, st.integers(0, 2**31))
@settings(max_examples=15)
def test_any_image_is_restored_no_worse(
    height: int, width: int, scale: float | Pair, seed: int
) -> None:
    net, generator = random_aidn(), torch.Generator().manual_seed(seed)
    hr = torch.randint(0, 256, (1, 3, height, width), generator=generator) / 255
    lr = optimized(net, hr, scale, 2, WHOLE)
    before = errors(net, hr, downscaled(net, hr, scale), scale)
    after = errors(net, hr, lr, scale)
    assert after[0] <= before[0] * (1 + 1e-5)  # the engines agree up to rounding
    assert after[1] <= before[1] * 10**0.0201 + 1e-9


@pytest.mark.parametrize(("factor", "stage"), [(16, 1), (16, 2), (32, 1), (32, 2)])
def test_vqir_is_optimized_through_its_codes(factor: int, stage: int) -> None:
    net = tiny_vqir(factor, stage).requires_grad_(False)
    torch.manual_seed(0)
    size = 3 * factor, 2 * factor - 3
    start, other = torch.randint(0, 256, (2, 1, 3, 3, 2)).to(torch.uint8)
    with torch.no_grad():
        # random weights map all LR images to features closest to the same code
        features = net._recover(torch.rand(64, 3, 2, 2))[..., 0, 0]
        net.quantize.embedding.weight.copy_(features)
        hr = quantize(net.upscale(other / 255, size=size))
    search = find_architecture(f"vqir{factor}").search
    assert search is not None
    lr = optimize_lr(net, start, reader(hr), size, None, 10, replace(search, step=0.02))
    before, after = (errors(net, hr, one, None) for one in (start, lr))
    assert after[0] < 0.9 * before[0]
    assert after[1] <= before[1] * 10**0.0201


def test_progress_ends_at_one() -> None:
    seen: list[float] = []
    search = replace(WHOLE, side=10)
    optimized(random_aidn(), torch.rand(1, 3, 40, 30), 2, 3, search, on_progress=seen.append)
    assert len(seen) == 2 * 2 * 3
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_wrong_arguments_are_named() -> None:
    net, hr = random_aidn(), torch.rand(1, 3, 40, 30)
    with pytest.raises(ValueError, match="effort is -1: expected a number of steps >= 0"):
        optimized(net, hr, 2, -1, WHOLE)
    lr = downscaled(net, hr, 2)
    for wrong in (lr.float(), lr[..., 1:]):
        with pytest.raises(ValueError, match=r"expected torch\.uint8 of \(1, 3, 20, 15\)$"):
            optimize_lr(net, wrong, reader(hr), (40, 30), 2, 1, WHOLE)
