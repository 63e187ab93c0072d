from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescale_arch import lr_size, scale_pair


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
