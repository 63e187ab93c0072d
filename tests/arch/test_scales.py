from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rescale_arch import imresize, lr_size, scale_pair


def test_where_floating_point_is_off() -> None:
    off = [
        (side, tenths / 10)
        for side in range(12, 2049)
        for tenths in range(11, 41)
        if math.ceil(side / (tenths / 10)) != -(-10 * side // tenths)
    ]
    assert off  # the reason for the tolerance
    for side, scale in off:
        assert lr_size((side, 8), scale)[0] == -(-side * 10 // round(scale * 10))
    assert lr_size((23, 23), 2.3) == (10, 10)


@given(st.integers(8, 8192), st.integers(101, 400))
def test_ceil_of_the_exact_quotient(side: int, hundredths: int) -> None:
    exact = math.ceil(Decimal(side) * 100 / Decimal(hundredths))
    assert lr_size((side, 8), hundredths / 100)[0] == exact


@given(st.integers(8, 8192), st.data())
def test_ratio_of_sides_gives_the_side_back(side: int, data: st.DataObject) -> None:
    small = data.draw(st.integers(-(-side // 4), side - 1))
    assert lr_size((side, side), side / small) == (small, small)


def test_axes_are_independent() -> None:
    assert lr_size((100, 90), (2.5, 1.0)) == (40, 90)
    assert scale_pair(3) == (3.0, 3.0)
    assert scale_pair([1.0, 4.0]) == (1.0, 4.0)  # as a YAML list gives it


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numbers_of_numpy_are_scales(kind: type) -> None:
    assert scale_pair(kind(2.5)) == (2.5, 2.5)
    assert scale_pair((kind(2.5), np.int64(1))) == (2.5, 1.0)
    assert scale_pair(np.array([2.5, 1.5], kind)) == (2.5, 1.5)  # type: ignore[arg-type]
    assert scale_pair(np.int64(3)) == (3.0, 3.0)  # type: ignore[arg-type]
    assert lr_size((100, 90), kind(2.5)) == (40, 36)
    image = torch.rand(1, 3, 10, 20)
    assert torch.equal(imresize(image, (25, 50), kind(2.5)), imresize(image, (25, 50), 2.5))


@pytest.mark.parametrize(
    "scale",
    [
        0.5,
        1.0,
        9,
        -2,
        math.nan,
        math.inf,
        (1.0, 1.0),
        (2.0, 5.0),
        (2.0,),
        (1.5, 2.0, 3.0),
        "abc",
        None,
    ],
)
def test_bad_scales_are_named(scale: object) -> None:
    with pytest.raises(ValueError, match="scale"):
        scale_pair(scale)  # type: ignore[arg-type]
