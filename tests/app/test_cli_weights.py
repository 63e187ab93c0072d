"""``rescale down`` and ``up``: which weights are chosen, with a record in the file and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from command_line import complaint
from PIL.Image import fromarray
from tiny_networks import AIDN_TINY

from rescale_app import Rescaler
from rescale_app.cli import main
from rescale_arch import AIDN, VQIR
from rescale_data.image_file import read_image, read_info
from rescale_data.weight_file import save_weights


def test_included_weights_are_found_by_their_images(
    hr_image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those for compressed images are selected for a JPEG, and found again by its record."""
    lr, back = tmp_path / "lr", tmp_path / "back"
    lr.mkdir()
    assert main(["down", hr_image, "-s", "2", "-o", str(lr / "a.png")]) == 0
    assert main(["down", hr_image, "-s", "2", "-o", str(lr / "b.jpg"), "--quality", "90"]) == 0
    infos = [read_info(lr / name) for name in ("a.png", "b.jpg")]
    expected = [Rescaler(name, device="cpu").fingerprint for name in ("aidn-small", "aidn-plus")]
    assert [info.weights for info in infos if info is not None] == expected
    assert main(["up", str(lr), "-o", str(back)]) == 0
    assert capsys.readouterr().err == ""  # no warning about other weights
    hr = read_image(hr_image).astype(float)
    for name, most in (("a", 5.0), ("b", 8.0)):
        error = np.sqrt(np.square(read_image(back / f"{name}.png") - hr).mean())
        assert error < most


def test_a_stripped_file(
    hr_image: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr, bare, back = (tmp_path / f"{name}.png" for name in ("lr", "bare", "back"))
    assert main(["down", hr_image, "-s", "2", "-o", str(lr), "--weights", weights]) == 0
    cv2.imwrite(str(bare), cv2.imread(str(lr)))
    up = ["up", str(bare), "-o", str(back), "--weights", weights]
    assert main(up) == 1
    needed = complaint(capsys)
    assert f"{bare}: contains no scale and original size" in needed
    example = f"rescale up {bare} -o {back} --weights {weights} -s 2 --size 144x96"
    assert f"as in `{example}` if `rescale down` made it from 144x96 by 2" in needed
    assert not back.exists()
    assert main([*up, "-s", "2", "--size", "144x96"]) == 0
    assert "rescaling is not super-resolution" in complaint(capsys)
    bare_restored = read_image(back)
    assert main(["up", str(lr), "-o", str(back), "--weights", weights]) == 0
    np.testing.assert_array_equal(read_image(back), bare_restored)
    capsys.readouterr()
    assert main([*up, "-s", "2", "--size", "144x90"]) == 1
    assert "is 72x48, but the LR image of 144x90 at scale 2 is 72x45" in complaint(capsys)
    up[1] = str(lr)
    assert main([*up, "-s", "3", "--size", "144x96"]) == 1
    assert "contradict" in complaint(capsys)


def test_a_stripped_jpeg_is_restored_as_with_its_record(
    hr_image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr, bare, back = tmp_path / "lr.jpg", tmp_path / "bare.jpg", tmp_path / "back.png"
    assert main(["down", hr_image, "-s", "2", "-o", str(lr)]) == 0
    data = lr.read_bytes()
    for mark in (b"\xff\xe1", b"\xff\xfe"):  # EXIF and the comment
        start = data.index(mark)
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]
    bare.write_bytes(data)
    assert read_info(bare) is None
    assert main(["up", str(lr), "-o", str(back)]) == 0
    expected = read_image(back)
    assert capsys.readouterr().err == ""
    assert main(["up", str(bare), "-o", str(back), "-s", "2", "--size", "144x96"]) == 0
    np.testing.assert_array_equal(read_image(back), expected)
    assert "; restored with aidn-plus, since the file is lossy (--weights" in complaint(capsys)


def test_without_a_record_the_format_chooses_the_weights(
    hr_image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, back = tmp_path / "bare", tmp_path / "back"
    bare.mkdir()
    lr = fromarray(Rescaler("aidn-small", device="cpu").downscale(read_image(hr_image), 2).pixels)
    chosen = {"a.bmp": "aidn-small", "b.webp": "aidn-plus", "c.webp": "aidn-small"}
    lr.save(bare / "a.bmp")
    lr.save(bare / "b.webp", quality=80)
    lr.save(bare / "c.webp", lossless=True)
    up = ["up", str(bare), "-o", str(back), "-s", "2", "--size", "144x96"]
    assert main(up) == 0
    lines = capsys.readouterr().err.splitlines()
    for line, (name, weights) in zip(lines, chosen.items(), strict=True):
        assert (
            f"{name}: contains no record that this network created it; restored with {weights}"
            in line
        )
        expected = Rescaler(weights, device="cpu").upscale(read_image(bare / name), 2, (96, 144))
        np.testing.assert_array_equal(read_image(back / f"{name[0]}.png"), expected)
    assert main([*up, "--weights", "aidn-plus"]) == 0
    assert "restored with" not in capsys.readouterr().err


def test_weights_that_are_not_included_are_replaced_by_those_for_the_format(
    hr_image: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr, back = tmp_path / "lr.jpg", str(tmp_path / "back.png")
    assert main(["down", hr_image, "-s", "2", "-o", str(lr), "--weights", weights]) == 0
    assert main(["up", str(lr), "-o", back]) == 0
    error = complaint(capsys)
    assert f"created with the weights {Rescaler(weights, device='cpu').fingerprint}" in error
    assert "; restored with aidn-plus, since the file is lossy" in error


def test_other_weights_are_warned_of(
    hr_image: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, lr = tmp_path / "other.safetensors", tmp_path / "lr.png"
    torch.manual_seed(1)
    save_weights(other, AIDN(**AIDN_TINY).state_dict(), config=AIDN_TINY)
    assert main(["down", hr_image, "-s", "2", "-o", str(lr), "--weights", weights]) == 0
    back = str(tmp_path / "back.png")
    assert main(["up", str(lr), "-o", back, "--weights", str(other)]) == 0
    assert "warning: " in complaint(capsys)


def test_vqir_x16(hr_image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    config: dict[str, Any] = {"ch": 32, "ch_mult": [1] * 5, "num_res_blocks": 1}
    config |= {"z_channels": 32, "embed_dim": 32, "n_embed": 16}
    weights = tmp_path / "vqir.safetensors"
    save_weights(weights, VQIR(**config).state_dict(), config=config)
    cv2.imwrite(hr_image, cv2.imread(hr_image)[:70, :100])
    lr, back = str(tmp_path / "lr.png"), tmp_path / "back.png"
    chosen = ["-m", "vqir16", "--weights", str(weights)]
    assert main(["down", hr_image, "-o", lr, *chosen]) == 0
    assert read_image(lr).shape == (5, 7, 3)
    assert main(["up", lr, "-o", str(back), "--weights", str(weights)]) == 0
    assert read_image(back).shape == (70, 100, 3)
    restored = read_image(back)
    cv2.imwrite(lr, cv2.imread(lr))  # strips the record
    assert main(["up", lr, "-o", str(back), "--size", "100x70", *chosen]) == 0
    np.testing.assert_array_equal(read_image(back), restored)
    capsys.readouterr()
    panel = str(tmp_path / "panel.png")
    assert main(["compare", hr_image, "-o", panel, *chosen]) == 0
    assert "VQIR16" in capsys.readouterr().out
    assert main(["down", hr_image, "-o", lr, "-s", "2", *chosen]) == 2
    assert "vqir16 has a fixed factor" in complaint(capsys)
    assert main(["down", hr_image, "-o", lr, "-s", "2", "--weights", str(weights)]) == 2
    assert "vqir16 has a fixed factor" in complaint(capsys)
    assert main(["down", hr_image, "-o", lr, "-m", "aidn", "--weights", str(weights)]) == 1
    assert "weights of vqir16, not of aidn" in complaint(capsys)
