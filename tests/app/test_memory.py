"""Memory of real `rescale` processes, which must not grow with the image except for its pixels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rescale_arch import AIDN
from rescale_data.image_file import read_image, write_image
from rescale_data.weight_file import save_weights

pytestmark = pytest.mark.slow

# The parent of one process: what its children needed is what that one did.
PEAK = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
MIB = 1 << 20


def peak(*arguments: object) -> int:
    """Bytes that ``rescale`` with these arguments had resident at its peak."""
    command = [sys.executable, "-m", "rescale_app.cli", *map(str, arguments)]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    return int(done.stdout.split()[-1]) * unit


def test_tiles_bound_the_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {"num_feat": 16, "num_block": 2, "adapt_interval": 1}
    weights = tmp_path / "small.safetensors"
    save_weights(weights, AIDN(**config).state_dict(), config=config)
    generator = np.random.default_rng(0)
    above: dict[tuple[str, int], int] = {}
    common = ("--weights", weights, "--device", "cpu", "--tile", 512)
    start: dict[str, int] = {}
    for height, width in ((64, 64), (1000, 750), (2000, 3000)):
        hr = tmp_path / f"{width}.png"
        lr, restored = tmp_path / f"{width}-lr.png", tmp_path / f"{width}-restored.png"
        write_image(hr, generator.integers(0, 256, (height, width, 3), np.uint8))
        used = {
            "down": peak("down", hr, "-s", 2.5, "-o", lr, *common),
            "up": peak("up", lr, "-o", restored, *common),
        }
        assert read_image(restored).shape == (height, width, 3)
        start = start or used
        for command, value in used.items():
            above[command, width] = value - start[command]
    for command in ("down", "up"):
        # Eight times the pixels, three bytes each, a few times over while files are coded; and what
        # the C library cannot reuse.
        growth = above[command, 3000] - above[command, 750]
        assert growth < 5 * 3 * (2000 * 3000 - 1000 * 750) + 64 * MIB, above
        # Layer by layer, each map of the larger image would need 366 MiB.
        assert above[command, 3000] < 320 * MIB, above


def test_windows_bound_the_memory_of_effort(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {"num_feat": 16, "num_block": 2, "adapt_interval": 1}
    weights = tmp_path / "small.safetensors"
    save_weights(weights, AIDN(**config).state_dict(), config=config)
    generator = np.random.default_rng(0)
    used = {}
    for height, width in ((480, 480), (960, 2400)):
        hr = tmp_path / f"{width}.png"
        write_image(hr, generator.integers(0, 256, (height, width, 3), np.uint8))
        common = ("--weights", weights, "--device", "cpu", "--tile", 512, "--effort", 1)
        used[width] = peak("down", hr, "-s", 2.5, "-o", tmp_path / "lr.png", *common)
    # Layer by layer, each of dozens of maps that gradients need would be 127 MiB larger.
    assert used[2400] - used[480] < 10 * 3 * (960 * 2400 - 480 * 480) + 160 * MIB, used
