"""The option ``effort`` of `Rescaler` and of the command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import AIDN_TINY

import rescale_app.effort
from rescale_app import Rescaler
from rescale_app.cli import main
from rescale_app.effort import square_error
from rescale_arch import AIDN
from rescale_arch.lr_optimization import optimize_lr
from rescale_data.image_file import read_image, write_image
from rescale_data.lossy import through_jpeg
from rescale_data.weight_file import save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    save_weights(path, AIDN(**AIDN_TINY).state_dict(), config=AIDN_TINY)
    return path


@pytest.fixture(scope="module")
def plain(weights: Path) -> Rescaler:
    return Rescaler(weights, device="cpu")


@pytest.fixture(scope="module")
def searching(weights: Path) -> Rescaler:
    return Rescaler(weights, device="cpu", effort=2)


@given(st.integers(8, 40), st.integers(8, 40), st.floats(1.01, 4.0), st.sampled_from([None, 60]))
@settings(max_examples=15)
def test_no_image_is_restored_worse(
    plain: Rescaler,
    searching: Rescaler,
    height: int,
    width: int,
    scale: float,
    quality: int | None,
) -> None:
    hr = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    searching.jpeg_quality = quality

    def error(rescaler: Rescaler) -> int:
        lr = rescaler.downscale(hr, scale)
        pixels = lr.pixels if quality is None else through_jpeg(lr.pixels, quality)
        return square_error(hr, plain.upscale(pixels, scale, (height, width)))

    assert error(searching) <= error(plain)


def test_depths_and_sizes(searching: Rescaler, plain: Rescaler, hr_folder: Path) -> None:
    hr = read_image(hr_folder / "astronaut.png")[:40, :50]
    searching.jpeg_quality = None
    small = searching.downscale(hr, size=(20, 30))
    assert small.info == plain.downscale(hr, size=(20, 30)).info
    for same in (hr.astype(np.uint16) * 257, hr / 255.0):
        difference = searching.downscale(same, (2, 5 / 3)).pixels - small.pixels.astype(int)
        assert np.abs(difference).max() <= 1
    assert np.array_equal(searching.downscale(hr, size=(40, 50)).pixels, hr)


def test_progress_of_the_steps(weights: Path, hr_folder: Path) -> None:
    seen: list[tuple[str, float]] = []
    rescaler = Rescaler(
        weights, device="cpu", effort=4, progress=lambda step, done: seen.append((step, done))
    )
    rescaler.downscale(read_image(hr_folder / "astronaut.png"), 3)
    assert [step for step, _ in seen] == ["Optimizing"] * 4
    assert [done for _, done in seen] == pytest.approx([0.25, 0.5, 0.75, 1])


def test_invalid_efforts(weights: Path) -> None:
    for wrong in (-1, 2.5, "3"):
        with pytest.raises(
            ValueError, match=f"effort is {wrong!r}: expected a number of steps >= 0"
        ):
            Rescaler(weights, effort=wrong)  # type: ignore[arg-type]


# the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [[], ["--quality", "90"]], ids=["png", "jpg"])
def test_up_restores_files_written_with_effort(
    chosen: list[str], hr_folder: Path, tmp_path: Path
) -> None:
    """With the included weights, a few steps gain on any image."""
    hr = read_image(hr_folder / "astronaut.png")
    errors = []
    for name, effort in (("plain", []), ("better", ["--effort", "5"])):
        lr, back = tmp_path / f"{name}{'.jpg' if chosen else '.png'}", tmp_path / f"{name}-hr.png"
        down = ["down", str(hr_folder / "astronaut.png"), "-s", "2", "-o", str(lr)]
        assert main([*down, *chosen, *effort]) == 0
        assert main(["up", str(lr), "-o", str(back)]) == 0
        errors.append(square_error(hr, read_image(back)))
    assert errors[1] < 0.97 * errors[0]


def test_lossy_webp_is_refused(
    hr_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down = ["down", str(hr_folder / "astronaut.png"), "-s", "2", "-o", str(tmp_path / "lr.webp")]
    assert main([*down, "--quality", "80", "--effort", "3"]) == 2
    assert "--effort does not support lossy WebP" in capsys.readouterr().err


def test_optimization_uses_the_pixels_of_the_jpeg_file(hr_folder: Path, tmp_path: Path) -> None:
    pixels = read_image(hr_folder / "rocket.png")
    write_image(tmp_path / "lr.jpg", pixels, quality=83)
    assert np.array_equal(read_image(tmp_path / "lr.jpg"), through_jpeg(pixels, 83))


def test_compare_takes_an_effort(
    hr_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = []
    for effort in ("0", "5"):
        compare = ["compare", str(hr_folder / "astronaut.png"), "-o", str(tmp_path / "panel.png")]
        assert main([*compare, "--effort", effort]) == 0
        found = re.search(r"^AIDN +(\S+)", capsys.readouterr().out, re.M)
        assert found is not None
        figures.append(float(found[1]))
    assert figures[1] > figures[0] + 0.3


def test_an_interrupted_optimization_leaves_nothing(
    weights: Path,
    hr_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*args: Any) -> Any:
        def on_progress(fraction: float) -> None:
            raise KeyboardInterrupt

        return optimize_lr(*args[:-1], on_progress)

    monkeypatch.setattr(rescale_app.effort, "optimize_lr", interrupted)
    lr = tmp_path / "lr.png"
    image = str(hr_folder / "astronaut.png")
    command = ["down", image, "-s", "2", "-o", str(lr), "--weights", str(weights)]
    assert main([*command, "--effort", "9"]) == 130
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.endswith("interrupted\n")


@pytest.mark.parametrize("effort", ["-1", "2.5", "many"])
def test_the_command_names_a_bad_effort(effort: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "a.png", "-s", "2", "-o", "b.png", f"--effort={effort}"]) == 2
    assert f"'{effort}' is not a number of steps >= 0" in capsys.readouterr().err
