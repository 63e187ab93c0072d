from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rescale_arch import bicubic, imresize, lr_size


def test_batch_and_channels_are_independent() -> None:
    x = torch.rand(3, 5, 17, 23, dtype=torch.float64)
    whole = imresize(x, (7, 9), 0.4)
    alone = torch.stack([torch.stack([imresize(plane, (7, 9), 0.4) for plane in i]) for i in x])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-14)


def test_differentiable() -> None:
    x = torch.rand(1, 2, 9, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: imresize(t, (4, 5), (0.4, 0.45)), (x,))
    assert torch.autograd.gradcheck(lambda t: imresize(t, (20, 25), 2.3), (x,))


def test_differentiable_after_inference_mode() -> None:
    with torch.inference_mode():
        imresize(torch.rand(1, 1, 31, 31), (13, 13))
    x = torch.rand(1, 1, 31, 31, requires_grad=True)
    imresize(x, (13, 13)).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("sides", [(700, 290), (290, 700)])
def test_blocks_of_a_long_side_join(
    sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(1, 1, 8, sides[0], dtype=torch.float64)
    in_blocks = imresize(x, (8, sides[1]))
    bicubic._blocks.cache_clear()
    monkeypatch.setattr(bicubic, "_BLOCK", 10_000)
    whole = imresize(x, (8, sides[1]))
    bicubic._blocks.cache_clear()
    torch.testing.assert_close(in_blocks, whole, rtol=0, atol=1e-14)


@given(st.integers(4, 90), st.integers(4, 90), st.floats(1.01, 4.0))
def test_constant_stays_constant(height: int, width: int, scale: float) -> None:
    x = torch.full((1, 1, height, width), 0.3, dtype=torch.float64)
    small = imresize(x, lr_size((height, width), scale), 1 / scale)
    back = imresize(small, (height, width), scale)
    assert small.shape[-2:] == lr_size((height, width), scale)
    assert (small - 0.3).abs().max() < 1e-12
    assert (back - 0.3).abs().max() < 1e-12


def test_symmetric_images_stay_symmetric() -> None:
    x = torch.rand(1, 1, 24, 24, dtype=torch.float64)
    x = x + x.flip(-1)
    y = imresize(x, (12, 12))
    torch.testing.assert_close(y, y.flip(-1), rtol=0, atol=1e-14)


def test_autocast_does_not_round_the_reference() -> None:
    x = torch.rand(1, 3, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        inside = imresize(x, (16, 16), 0.4)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, imresize(x, (16, 16), 0.4))


@pytest.mark.parametrize(("size", "scale"), [((0, 4), None), ((4, 4), -1.0), ((4, 4), (1.0, 0.0))])
def test_bad_arguments(size: tuple[int, int], scale: float | None) -> None:
    with pytest.raises(ValueError, match=r"size|scale"):
        imresize(torch.rand(1, 1, 8, 8), size, scale)
