"""Time and memory of networks, measured in a separate process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rescale_model.evaluation import cost
from rescale_model.evaluation.cost import measure_cost


@pytest.mark.slow
def test_memory_is_measured_in_a_separate_process(two_networks: Path) -> None:
    hoard = np.ones(200_000_000, np.uint8)  # would hide in a peak that is inherited
    del hoard
    scales = {"x2": (2.0, 2.0), "x4": (4.0, 4.0)}
    costs = [
        measure_cost(file, scales, 256, "cpu")
        for file in (None, str(two_networks / "first.safetensors"))
    ]
    for one in costs:
        assert one.seconds.keys() == scales.keys() and min(one.seconds.values()) > 0
    bicubic, aidn = (one.memory for one in costs)
    if os.path.exists("/proc/self/status"):
        # eight features at full size are 32 bytes a pixel, and several are alive at once
        assert bicubic is not None and aidn is not None
        assert 0 < bicubic < aidn and 64e6 < aidn < 3e9
    else:
        assert bicubic is aidn is None


def killed(*_: Any) -> None:
    """A process that the system has killed for lack of memory."""
    os._exit(9)


@pytest.mark.slow
def test_a_killed_measurement_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_measure", killed)
    with pytest.raises(MemoryError, match=r"64 x 64 pixels was killed.*lower val: cost_size"):
        measure_cost("some.pth", {"x2": (2.0, 2.0)}, 64, "cpu")


@pytest.mark.gpu
@pytest.mark.slow
def test_memory_of_a_gpu_is_measured(two_networks: Path) -> None:
    measured = measure_cost(
        str(two_networks / "first.safetensors"), {"x2": (2.0, 2.0)}, 256, "cuda"
    )
    assert measured.memory is not None and 64e6 < measured.memory < 3e9
