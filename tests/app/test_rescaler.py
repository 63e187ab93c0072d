from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from tiny_networks import AIDN_TINY

from rescale_app import LRImage, Rescaler, RescaleWarning
from rescale_app.cli import main
from rescale_app.panel import comparison_panel, error_map, side_by_side
from rescale_arch import AIDN, VQIR, lr_size
from rescale_arch.rounding import quantize
from rescale_data.image_file import LRInfo, read_image, write_image
from rescale_data.weight_file import save_weights


def tiny(seed: int = 0) -> AIDN:
    torch.manual_seed(seed)
    return AIDN(**AIDN_TINY).eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, tiny().state_dict(), config=AIDN_TINY)
    return path


@pytest.fixture(scope="module")
def rescaler(weights: Path) -> Rescaler:
    return Rescaler(weights, device="cpu")


def hr_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@given(
    st.integers(8, 60),
    st.integers(8, 60),
    st.floats(1.01, 4.0) | st.tuples(st.floats(1.0, 4.0), st.floats(1.01, 4.0)),
)
@settings(max_examples=30)
def test_any_size_and_scale_comes_back_exact(
    rescaler: Rescaler, height: int, width: int, scale: float | tuple[float, float]
) -> None:
    lr = rescaler.downscale(hr_image(height, width), scale)
    assert lr.pixels.shape == (*lr_size((height, width), scale), 3)
    assert lr.pixels.dtype == np.uint8
    restored = rescaler.upscale(lr)
    assert restored.shape == (height, width, 3)
    assert restored.dtype == np.uint8


@given(st.integers(8, 60), st.integers(8, 60), st.data())
@settings(max_examples=30)
def test_any_target_size_is_hit(
    rescaler: Rescaler, height: int, width: int, data: st.DataObject
) -> None:
    target = (
        data.draw(st.integers(-(-height // 4), height)),
        data.draw(st.integers(-(-width // 4), width)),
    )
    lr = rescaler.downscale(hr_image(height, width), size=target)
    assert lr.pixels.shape[:2] == target
    restored = rescaler.upscale(lr)
    assert restored.shape == (height, width, 3)
    if target == (height, width):
        np.testing.assert_array_equal(restored, hr_image(height, width))


@torch.inference_mode()
def test_pixels_are_the_networks(rescaler: Rescaler) -> None:
    net = tiny()
    hr = hr_image(31, 45)
    tensor = torch.from_numpy(hr).permute(2, 0, 1)[None] / 255
    lr = quantize(net.downscale(tensor, 2.5))
    ours = rescaler.downscale(hr, 2.5)
    np.testing.assert_array_equal(ours.pixels, (lr * 255).round()[0].permute(1, 2, 0).numpy())
    restored = quantize(net.upscale(lr, 2.5, size=(31, 45)))
    np.testing.assert_array_equal(
        rescaler.upscale(ours), (restored * 255).round()[0].permute(1, 2, 0).numpy()
    )


def test_kinds_of_arrays(rescaler: Rescaler) -> None:
    hr = hr_image(20, 24)
    expected = rescaler.downscale(hr, 2).pixels
    for same in (hr.astype(np.uint16) * 257, hr.astype(np.float32) / 255, hr / 255.0):
        np.testing.assert_array_equal(rescaler.downscale(same, 2).pixels, expected)
    gray = hr[..., 0]
    np.testing.assert_array_equal(
        rescaler.downscale(gray, 2).pixels,
        rescaler.downscale(np.repeat(gray[..., None], 3, axis=2), 2).pixels,
    )


def test_the_lr_image_is_an_array_with_what_restoring_needs(rescaler: Rescaler) -> None:
    lr = rescaler.downscale(hr_image(20, 25), (2.0, 2.5))
    assert lr.info == LRInfo("aidn", (2.0, 2.5), (20, 25), rescaler.fingerprint)
    np.testing.assert_array_equal(np.asarray(lr), lr.pixels)
    np.testing.assert_array_equal(
        rescaler.upscale(lr.pixels, (2.0, 2.5), (20, 25)), rescaler.upscale(lr)
    )


def test_other_weights_are_warned_of(rescaler: Rescaler, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_weights(path, tiny(1).state_dict(), config=AIDN_TINY)
    lr = rescaler.downscale(hr_image(20, 20), 2)
    with pytest.warns(RescaleWarning, match=f"created with the weights {rescaler.fingerprint}"):
        Rescaler(path, device="cpu").upscale(lr)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rescaler.upscale(lr)


def test_numbers_of_the_network_come_from_the_file(tmp_path: Path) -> None:
    """``res_scale`` cannot be inferred from the weights, so the file has to state it."""
    torch.manual_seed(0)
    config = {**AIDN_TINY, "res_scale": 0.1}
    path = tmp_path / "net_g_latest.pth"
    torch.save({"params": AIDN(**config).state_dict(), "config": config}, path)
    assert Rescaler(path, device="cpu").network.down_net.body[0].res_scale == 0.1


def test_bfloat16_is_close(weights: Path, rescaler: Rescaler) -> None:
    hr = hr_image(40, 40)
    half = Rescaler(weights, device="cpu", precision="bf16")
    difference = half.downscale(hr, 2).pixels.astype(int) - rescaler.downscale(hr, 2).pixels
    assert np.abs(difference).max() <= 3


def test_tiles_give_what_the_whole_does(weights: Path, rescaler: Rescaler) -> None:
    hr = hr_image(61, 130)
    lr = rescaler.downscale(hr, (1.7, 2.5))
    tiled = Rescaler(weights, device="cpu", tile=40)
    for same in (hr, hr.astype(np.uint16) * 257, hr / 255.0):
        # 1e-6 may decide which way a sample is rounded
        assert np.abs(tiled.downscale(same, (1.7, 2.5)).pixels.astype(int) - lr.pixels).max() <= 1
    assert np.abs(tiled.upscale(lr).astype(int) - rescaler.upscale(lr)).max() <= 1


def test_large_images_are_computed_in_tiles(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sides(tile: Any) -> list[int]:
        rescaler = Rescaler(weights, device="cpu", tile=tile)
        small = replace(rescaler.architecture, max_untiled_pixels=30 * 100, tile=50)
        monkeypatch.setattr(rescaler._runner, "architecture", small)
        seen: list[int] = []
        for name in ("downscale_tiles", "upscale_tiles"):
            work = getattr(rescaler.network, name)

            def spy(*args: Any, work: Any = work) -> None:
                seen.append(args[-1])
                work(*args)

            monkeypatch.setattr(rescaler.network, name, spy)
        for width in (100, 101):
            rescaler.upscale(rescaler.downscale(hr_image(30, width), 2))
        return seen

    assert sides("auto") == [50, 50]
    assert sides(None) == []
    assert sides(64) == [64] * 4


def test_a_gpu_processes_images_untiled_if_they_fit_into_free_memory(
    weights: Path, vqir: tuple[Path, VQIR], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, per_pixel in ((weights, 33 * AIDN_TINY["num_feat"]), (vqir[0], 26 * 64)):
        rescaler = Rescaler(path, device="cpu")
        rescaler._runner.device = torch.device("cuda")
        tile_side = rescaler._runner.tile_side
        for pixels in (40 * 50, 4000 * 5000):
            free = per_pixel * pixels / 0.8 + 1
            monkeypatch.setattr("rescale_app.tiles.free_gpu_memory", lambda _, n=free: n)
            side = int(pixels**0.5)
            assert tile_side((side, side), "auto") is None
            assert tile_side((side + 1, side + 1), "auto") == rescaler.architecture.tile
        monkeypatch.setattr("rescale_app.tiles.free_gpu_memory", lambda _: 1 << 50)
        index_overflow = (1 << 16, 1 << 16)  # kernels use 32-bit indices
        assert tile_side(index_overflow, "auto") == rescaler.architecture.tile


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [1.1, 2.5])
def test_an_image_takes_no_more_memory_than_expected(scale: float) -> None:
    rescaler = Rescaler(device="cuda", tile=None)
    hr = hr_image(1500, 1500)
    rescaler.upscale(rescaler.downscale(hr_image(64, 64), scale))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rescaler.upscale(rescaler.downscale(hr, scale))
    taken = torch.cuda.max_memory_allocated() - before
    per_pixel = rescaler.architecture.bytes_per_pixel(rescaler._runner.config)
    assert taken < per_pixel * hr.shape[0] * hr.shape[1] / 0.8


@pytest.mark.parametrize(
    ("tile", "advice"),
    [
        (None, ": tiles need less memory (--tile 64; in Python, tile=64)"),
        (200, ": smaller tiles need less memory (--tile 64; in Python, tile=64)"),
        (100, ""),  # smaller ones would hardly help
    ],
)
def test_out_of_memory_advises_smaller_tiles(
    weights: Path, tile: int | None, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def want_too_much(*_: Any) -> None:
        torch.empty(1 << 60)

    rescaler = Rescaler(weights, device="cpu", tile=tile)
    for name in ("downscale", "downscale_tiles"):
        monkeypatch.setattr(rescaler.network, name, want_too_much)
    message = f"not enough memory on cpu for an image of 160x30{advice}"
    with pytest.raises(MemoryError, match=f"^{re.escape(message)}$"):
        rescaler.downscale(hr_image(30, 160), 2)


def test_compare_agrees_with_plain_formulas(rescaler: Rescaler, hr_folder: Path) -> None:
    hr = read_image(hr_folder / "coffee.png")
    comparison = rescaler.compare(hr, 2.5)
    np.testing.assert_array_equal(comparison.lr.pixels, rescaler.downscale(hr, 2.5).pixels)
    inner = slice(3, -3)
    error = comparison.bicubic[inner, inner].astype(float) - hr[inner, inner]
    psnr = 10 * np.log10(255**2 / (error**2).mean())
    assert comparison.bicubic_quality.psnr == pytest.approx(psnr, abs=1e-6)
    luma = error @ np.array([65.481, 128.553, 24.966]) / 255
    psnr_y = 10 * np.log10(255**2 / (luma**2).mean())
    assert comparison.bicubic_quality.psnr_y == pytest.approx(psnr_y, abs=1e-3)
    # the true scale both ways, antialiased: the traps cost several dB
    assert comparison.bicubic_quality.psnr_y > 25
    panel = comparison_panel(comparison)
    assert panel.shape[0] > 2 * hr.shape[0]
    assert panel.shape[1] > 3 * hr.shape[1]


def test_error_map_and_panel_reject_invalid_arguments() -> None:
    a = np.zeros((4, 4, 3), np.uint8)
    np.testing.assert_array_equal(error_map(a, a + 10, gain=8), np.full_like(a, 80))
    np.testing.assert_array_equal(error_map(a, a + 200), np.full_like(a, 255))
    with pytest.raises(ValueError, match="differ in shape"):
        error_map(a, a[:2])
    with pytest.raises(ValueError, match="a panel needs at least one"):
        side_by_side([], 3)


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (lambda r: r.downscale(hr_image(20, 20)), "scale is missing"),
        (lambda r: r.downscale(hr_image(20, 20), 2, size=(5, 5)), "either scale or size"),
        (lambda r: r.downscale(hr_image(20, 20), 0.5), r"scale 0\.5 is out of range"),
        (lambda r: r.downscale(hr_image(20, 20), size=(4, 20)), "valid sizes are from 5x5"),
        (lambda r: r.downscale(hr_image(20, 20), size=(21, 20)), "to the original size"),
        (lambda r: r.downscale(hr_image(7, 20), 2), "at least 8 x 8"),
        (lambda r: r.downscale(np.zeros((20, 20, 4), np.uint8), 2), r"shape \(20, 20, 4\)"),
        (lambda r: r.downscale(np.zeros((20, 20), np.int32), 2), "int32"),
        (lambda r: r.downscale(np.full((20, 20), 1.5), 2), r"samples from 1\.5"),
        (lambda r: r.downscale(np.full((20, 20), np.nan), 2), "samples from nan"),
        (lambda r: r.upscale(hr_image(10, 10)), "specify both"),
        (lambda r: r.upscale(hr_image(10, 10), 2, (30, 30)), "is 10x10, but .* is 15x15"),
        (
            lambda r: r.upscale(LRImage(hr_image(4, 4), LRInfo("vqir16", (16, 16), (64, 64), "x"))),
            "'vqir16'",
        ),
        (lambda r: r.compare(hr_image(12, 12), 4), "too small for metrics"),
    ],
)
def test_bad_input_is_named(rescaler: Rescaler, call: Any, culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        call(rescaler)


@pytest.fixture(scope="module", params=[(16, 1), (16, 2), (32, 1)], ids=str)
def vqir(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, VQIR]:
    torch.manual_seed(0)
    factor, stage = request.param
    # strip attention has a head for every 64 channels
    config = {"ch": 64, "ch_mult": [1] * 5, "num_res_blocks": 1, "z_channels": 32}
    config |= {"factor": factor, "stage": stage, "embed_dim": 32, "n_embed": 16}
    net = VQIR(**config).eval().requires_grad_(False)
    path = tmp_path_factory.mktemp("vqir") / "net_g_latest.pth"
    torch.save({"params": net.state_dict()}, path)
    return path, net


@torch.inference_mode()
def test_vqir_at_its_factor(vqir: tuple[Path, VQIR]) -> None:
    path, net = vqir
    rescaler = Rescaler(path, device="cpu")
    hr = hr_image(70, 100)
    lr = rescaler.downscale(hr)
    factor = net.factor
    assert lr.info == LRInfo(f"vqir{factor}", (factor, factor), (70, 100), rescaler.fingerprint)
    assert lr.pixels.shape == (*net.lr_size((70, 100)), 3)
    tensor = torch.from_numpy(hr).permute(2, 0, 1)[None] / 255
    stored = net.round_lr(net.downscale(tensor))
    np.testing.assert_array_equal(lr.pixels, (stored * 255).round()[0].permute(1, 2, 0).numpy())
    restored = quantize(net.upscale(stored, size=(70, 100)))[0].permute(1, 2, 0) * 255
    np.testing.assert_array_equal(rescaler.upscale(lr), restored.round().numpy())
    np.testing.assert_array_equal(rescaler.upscale(lr.pixels, size=(70, 100)), rescaler.upscale(lr))
    with pytest.raises(ValueError, match=f"this network rescales by {factor} only"):
        rescaler.downscale(hr, 2.5)
    with pytest.raises(ValueError, match="size is not supported"):
        rescaler.downscale(hr, size=(10, 10))
    with pytest.raises(ValueError, match=f"at least {factor} x {factor}"):
        rescaler.downscale(hr[:12])
    with pytest.raises(ValueError, match=f"weights of vqir{factor}, not of aidn"):
        Rescaler(path, method="aidn")


@pytest.mark.parametrize("tile", ["auto", "none", "64"])
def test_the_command_takes_tiles(weights: Path, tmp_path: Path, tile: str) -> None:
    hr, lr, restored = (tmp_path / f"{name}.png" for name in ("hr", "lr", "restored"))
    write_image(hr, hr_image(40, 100))
    common = ["--weights", str(weights), "--device", "cpu", "--tile", tile]
    assert main(["down", str(hr), "-s", "2", "-o", str(lr), *common]) == 0
    assert main(["up", str(lr), "-o", str(restored), *common]) == 0
    assert read_image(restored).shape == (40, 100, 3)


def test_the_command_names_a_bad_tile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "a.png", "-o", "b.png", "--tile", "big"]) == 2
    assert "'big' is not a tile size: expected auto, none or a number" in capsys.readouterr().err


@torch.inference_mode()
def test_vqir_in_tiles(vqir: tuple[Path, VQIR]) -> None:
    path, net = vqir
    rescaler = Rescaler(path, device="cpu", tile=4 * net.factor)
    hr = hr_image(9 * net.factor + 3, 5 * net.factor)
    lr = rescaler.downscale(hr)
    assert lr.pixels.shape == (10, 5, 3)
    assert rescaler.upscale(lr).shape == hr.shape


def test_bad_construction_is_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such weights file"):
        Rescaler(tmp_path / "gone.pth")
    with pytest.raises(ValueError, match="precision is 'fp8': expected one of auto, fp32, bf16"):
        Rescaler(weights, precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method 'edsr' is unknown: expected one of aidn, vqir16"):
        Rescaler(weights, method="edsr")
    with pytest.raises(FileNotFoundError, match="includes no weights for vqir32"):
        Rescaler(method="vqir32")
    with pytest.raises(ValueError, match="device 'tpu'"):
        Rescaler(weights, device="tpu")  # type: ignore[arg-type]
    for tile in (0, -5, "small"):
        with pytest.raises(ValueError, match=f"tile is {tile!r}: expected auto"):
            Rescaler(weights, tile=tile)  # type: ignore[arg-type]
    other = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match=r"other\.pth: not the weights of any known network"):
        Rescaler(other)


def test_included_weights_are_the_default_and_better_than_bicubic() -> None:
    rescaler = Rescaler(device="cpu")
    assert rescaler.fingerprint == Rescaler("aidn-small", device="cpu").fingerprint
    hr = data.chelsea()[60:240, 120:330]  # no image of the training
    for scale, gain in ((1.5, 2.0), (2.5, 1.5), (3.5, 1.0)):
        comparison = rescaler.compare(hr, scale)
        assert comparison.quality.psnr_y > comparison.bicubic_quality.psnr_y + gain
        assert comparison.lr_psnr_y > 40
