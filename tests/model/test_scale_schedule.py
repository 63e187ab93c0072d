import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rescale_model.training.scale_schedule import ScaleSchedule

GRID = [float(f"{tenths // 10}.{tenths % 10}") for tenths in range(11, 41)]


def draws(schedule: ScaleSchedule, count: int = 6000) -> list[float]:
    return [schedule(iteration) for iteration in range(1, count + 1)]


def test_the_grid_holds_the_numbers_that_a_user_would_write() -> None:
    assert sorted(set(draws(ScaleSchedule()))) == GRID


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_probabilities_are_powers_of_the_scale(power: float) -> None:
    scales, counts = np.unique(draws(ScaleSchedule(power=power, seed=1)), return_counts=True)
    expected = scales**power / (scales**power).sum() * counts.sum()
    assert stats.chisquare(counts, expected).pvalue > 0.01
    other = scales ** (2 - power) / (scales ** (2 - power)).sum() * counts.sum()
    assert stats.chisquare(counts, other).pvalue < 1e-6


def test_the_first_iterations_draw_integers() -> None:
    schedule = ScaleSchedule(integer_iter=400)
    early = [schedule(iteration) for iteration in range(1, 401)]
    assert set(early) == {2.0, 3.0, 4.0}
    assert early.count(4.0) > early.count(3.0) > early.count(2.0)
    assert not all(schedule(iteration).is_integer() for iteration in range(401, 421))


def test_a_draw_depends_on_seed_and_iteration_alone() -> None:
    schedule = ScaleSchedule(seed=7)
    forward = [schedule(iteration) for iteration in range(1, 101)]
    np.random.seed(123)
    backward = [ScaleSchedule(seed=7)(iteration) for iteration in range(100, 0, -1)]
    assert forward == backward[::-1]
    assert forward != [ScaleSchedule(seed=8)(iteration) for iteration in range(1, 101)]


@given(
    bounds=st.lists(st.floats(1.001, 4), min_size=2, max_size=2).map(sorted),
    step=st.floats(0.001, 4),
    power=st.floats(-3, 3),
    iteration=st.integers(1, 10**7),
)
def test_draws_stay_within_the_range(
    bounds: list[float], step: float, power: float, iteration: int
) -> None:
    low, high = bounds
    schedule = ScaleSchedule(low=low, high=high, step=step, power=power)
    assert low - 1e-6 <= schedule(iteration) <= high + 1e-6
    assert 1 < schedule(iteration) <= 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0}, "low 1.0"),
        ({"low": 3, "high": 2}, "high 2"),
        ({"high": 4.1}, "high 4.1"),
        ({"low": float("nan")}, "low nan"),
        ({"step": 0}, "step 0"),
        ({"step": -0.1}, "step -0.1"),
        ({"low": 2.1, "high": 2.9, "integer_iter": 5}, "no integer"),
    ],
)
def test_wrong_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaleSchedule(**options)  # type: ignore[arg-type]
