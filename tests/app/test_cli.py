"""The ``rescale`` command on real files; in process, and some of it as a real process."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL.Image import fromarray
from training import command

from rescale_app import Rescaler
from rescale_app.cli import main
from rescale_arch import AIDN, VQIR
from rescale_data.image_file import read_image, read_info, write_image
from rescale_data.losses import Loss
from rescale_data.weight_file import save_weights

TINY: dict[str, Any] = {"num_feat": 8, "num_block": 2, "adapt_interval": 1}
ODD_SIZES = {"deep": (41, 53), "gray": (33, 27), "jpeg": (47, 61), "rgba": (24, 39)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, AIDN(**TINY).state_dict(), config=TINY)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, hr_folder: Path) -> Path:
    """A folder with an odd-sized JPEG, a 16-bit PNG, a gray and an RGBA image."""
    coffee = cv2.imread(str(hr_folder / "coffee.png"))
    crops = {name: coffee[:height, :width] for name, (height, width) in ODD_SIZES.items()}
    result = tmp_path / "in"
    result.mkdir()
    cv2.imwrite(str(result / "jpeg.jpg"), crops["jpeg"])
    cv2.imwrite(str(result / "deep.png"), crops["deep"].astype(np.uint16) * 257)
    cv2.imwrite(str(result / "gray.png"), crops["gray"][..., 0])
    alpha = np.full(crops["rgba"].shape[:2], 200, np.uint8)
    cv2.imwrite(str(result / "rgba.png"), np.dstack([crops["rgba"], alpha]))
    return result


@pytest.fixture
def hr_image(tmp_path: Path, hr_folder: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes((hr_folder / "coffee.png").read_bytes())
    return str(path)


def losses_in(folder: Path) -> str:
    """The warning of what the images of ``folder`` lose."""
    return f"rescale: warning: {folder}/deep.png: {Loss.DEPTH.value}\n"


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """What was written to stderr: one line, no traceback."""
    error = capsys.readouterr().err
    assert error.startswith("rescale: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


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


def test_a_folder_there_and_back(folder: Path, weights: str, tmp_path: Path) -> None:
    lr, back = tmp_path / "lr", tmp_path / "back"
    assert main(["down", str(folder), "-s", "2.5", "-o", str(lr), "--weights", weights]) == 0
    assert main(["up", str(lr), "-o", str(back), "--weights", weights]) == 0
    assert sorted(path.name for path in back.iterdir()) == [f"{name}.png" for name in ODD_SIZES]
    rescaler = Rescaler(weights)
    for source in folder.iterdir():
        restored = read_image(back / f"{source.stem}.png")
        assert restored.shape == (*ODD_SIZES[source.stem], 3)
        expected = rescaler.upscale(rescaler.downscale(read_image(source), 2.5))
        np.testing.assert_array_equal(restored, expected)


def test_jpeg_carries_it_too(hr_image: str, weights: str, tmp_path: Path) -> None:
    lr, back = tmp_path / "lr.jpg", tmp_path / "back.png"
    down = ["down", hr_image, "-s", "1.7x2.3", "-o", str(lr), "--quality", "90"]
    assert main([*down, "--weights", weights]) == 0
    info = read_info(lr)
    assert info is not None
    assert info.scale == (1.7, 2.3)
    assert info.weights == Rescaler(weights).fingerprint
    assert main(["up", str(lr), "-o", str(back), "--weights", weights]) == 0
    assert read_image(back).shape == read_image(hr_image).shape


@pytest.mark.parametrize(
    ("options", "width", "height"),
    [(["--fit", "60"], 60, 40), (["--size", "100x30"], 100, 30), (["--size", "144x50"], 144, 50)],
)
def test_target_sizes(
    options: list[str], width: int, height: int, hr_image: str, weights: str, tmp_path: Path
) -> None:
    lr, back = tmp_path / "lr.png", tmp_path / "back.png"
    assert main(["down", hr_image, *options, "-o", str(lr), "--weights", weights]) == 0
    assert read_image(lr).shape == (height, width, 3)
    assert main(["up", str(lr), "-o", str(back), "--weights", weights]) == 0
    assert read_image(back).shape == (96, 144, 3)


@pytest.mark.parametrize("options", [["--fit", "144"], ["--fit", "5000"], ["--size", "144x96"]])
def test_an_image_that_fits_is_copied_and_reported(
    options: list[str],
    hr_image: str,
    weights: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lr, back = tmp_path / "lr.png", tmp_path / "back.png"
    assert main(["down", hr_image, *options, "-o", str(lr), "--weights", weights]) == 0
    assert "already fits, copied unchanged" in capsys.readouterr().out
    assert main(["up", str(lr), "-o", str(back), "--weights", weights]) == 0
    np.testing.assert_array_equal(read_image(back), read_image(hr_image))


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
    save_weights(other, AIDN(**TINY).state_dict(), config=TINY)
    assert main(["down", hr_image, "-s", "2", "-o", str(lr), "--weights", weights]) == 0
    back = str(tmp_path / "back.png")
    assert main(["up", str(lr), "-o", back, "--weights", str(other)]) == 0
    assert "warning: " in complaint(capsys)


@pytest.mark.parametrize("native", [True, False])
def test_bf16_without_instructions_for_it_is_warned_of_once(
    native: bool,
    folder: Path,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("rescale_app.rescaler.bfloat16_is_native", lambda device: native)
    lr = str(tmp_path / "lr")
    down = ["down", str(folder), "-s", "2", "-o", lr, "--weights", weights, "--device", "cpu"]
    assert main(down) == 0
    assert capsys.readouterr().err == losses_in(folder)
    assert main([*down, "--precision", "bf16"]) == 0
    told = capsys.readouterr().err.replace(losses_in(folder), "").splitlines()
    assert len(told) == (0 if native else 1)
    for line in told:
        assert line.startswith("rescale: warning: precision bf16 on a device without bfloat16")


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
TORCHRUN |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29599"}


def test_environment_variables_of_a_cluster_job_have_no_effect(
    hr_image: str,
    folder: Path,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    lr = tmp_path / "lr.png"
    assert main(["down", hr_image, "-s", "2", "-o", str(lr), "--weights", weights]) == 0
    assert lr.exists()
    out = tmp_path / "out"
    assert main(["down", str(folder), "-s", "2", "-o", str(out), "--weights", weights]) == 0
    assert "4 of 4 images written" in capsys.readouterr().out
    assert len(list(out.iterdir())) == 4


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"RANK": None}, "--launcher pytorch: RANK is not set: start the processes with torchrun"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"LOCAL_RANK": "one"}, "LOCAL_RANK is 'one', which is not a number"),
        ({"RANK": "2"}, "RANK is 2, which must be below WORLD_SIZE, 2"),
    ],
)
def test_an_unknown_launcher_is_named(
    changes: dict[str, str | None],
    culprit: str,
    folder: Path,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in (TORCHRUN | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    down = ["down", str(folder), "-s", "2", "-o", str(tmp_path / "out"), "--weights", weights]
    assert main([*down, "--launcher", "pytorch"]) == 2
    assert culprit in complaint(capsys)


def test_a_launcher_is_for_folders(
    hr_image: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr = tmp_path / "lr.png"
    down = ["down", hr_image, "-s", "2", "-o", str(lr), "--weights", weights]
    assert main([*down, "--launcher", "pytorch"]) == 2
    culprit = f"--launcher distributes the images of a folder, but {hr_image} is a file"
    assert culprit in complaint(capsys)
    assert not lr.exists()


def test_a_bad_file_does_not_stop_the_rest(
    folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / "deep.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "small.png").write_bytes(b"")
    write_image(folder / "narrow.png", np.zeros((20, 7, 3), np.uint8))
    lr = tmp_path / "lr"
    assert main(["down", str(folder), "-s", "2", "-o", str(lr), "--weights", weights]) == 1
    printed = capsys.readouterr()
    assert "4 of 7 images written" in printed.out
    lines = [line for line in printed.err.splitlines() if line.startswith("rescale: error")]
    assert sorted(Path(line.split(": ")[2]).name for line in lines) == [
        "broken.png",
        "narrow.png",
        "small.png",
    ]
    assert sorted(path.stem for path in lr.iterdir()) == sorted(ODD_SIZES)


def test_a_write_error_does_not_stop_the_rest(
    folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr = tmp_path / "lr"
    (lr / "gray.png").mkdir(parents=True)  # blocks the output of the second of four
    assert main(["down", str(folder), "-s", "2", "-o", str(lr), "--weights", weights]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"3 of 4 images written to {lr}, 1 failed\n"
    error = f"rescale: error: {folder}/gray.png: {lr}/gray.png: Is a directory\n"
    assert printed.err == error + losses_in(folder)
    assert sorted(path.stem for path in lr.iterdir() if path.is_file()) == ["deep", "jpeg", "rgba"]


def test_files_that_are_not_read_are_counted(
    folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.gif", "b.GIF", "c.avif", "README", "notes.txt", ".hidden"):
        (folder / name).touch()
    for name in ("more", "most", "lr"):
        (folder / name).mkdir()
    lr = folder / "lr"  # not counted, as it is the output
    assert main(["down", str(folder), "-s", "2", "-o", str(lr), "--weights", weights]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"4 of 4 images written to {lr}",
        "not read: 1 .avif, 2 .gif, 1 .txt, 1 without a suffix, 2 subfolders",
    ]
    for path in folder.glob("*.[pj][np]g"):
        path.unlink()
    assert main(["down", str(folder), "-s", "2", "-o", str(tmp_path), "--weights", weights]) == 1
    assert "no images in this folder (not read: 1 .avif, 2 .gif" in complaint(capsys)


def test_skip_existing_continues_an_earlier_run(
    folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr = tmp_path / "lr"
    lr.mkdir()
    (lr / "jpeg.png").write_bytes(b"of an earlier run")
    down = ["down", str(folder), "-s", "2", "-o", str(lr), "--weights", weights]
    assert main([*down, "--skip-existing"]) == 0
    out = f"3 of 4 images written to {lr}, 1 skipped that already exist\n"
    assert capsys.readouterr().out == out
    assert (lr / "jpeg.png").read_bytes() == b"of an earlier run"
    down[1] = str(folder / "jpeg.jpg")
    assert main([*down, "--skip-existing"]) == 0
    assert capsys.readouterr().out == f"{down[1]}: skipped, {lr / 'jpeg.png'} already exists\n"
    assert (lr / "jpeg.png").read_bytes() == b"of an earlier run"
    assert main(down) == 0
    assert read_image(lr / "jpeg.png").shape == (24, 31, 3)


@pytest.mark.parametrize("skip", [False, True])
def test_files_that_another_process_writes_meanwhile_are_reported(
    skip: bool,
    folder: Path,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lr = tmp_path / "lr"
    lr.mkdir()
    (lr / "deep.png").touch()  # existed before
    downscale = Rescaler.downscale

    def slow_downscale(rescaler: Rescaler, image: Any, *args: Any) -> Any:
        if image.shape[:2] == ODD_SIZES["jpeg"]:
            (lr / "jpeg.png").write_bytes(b"by another")
            (lr / "rgba.png").write_bytes(b"by another")
        return downscale(rescaler, image, *args)

    monkeypatch.setattr(Rescaler, "downscale", slow_downscale)
    down = ["down", str(folder), "-s", "2", "-o", str(lr), "--weights", weights]
    assert main([*down, *(["--skip-existing"] if skip else [])]) == 0
    printed = capsys.readouterr()
    told = [f"rescale: warning: {lr}/{name}.png: was created during" for name in ("jpeg", "rgba")]
    lines = printed.err.replace(losses_in(folder), "").splitlines()
    assert [line.rpartition(" this run")[0] for line in lines] == ([] if skip else told)
    assert (lr / "jpeg.png").read_bytes().startswith(b"by another" if skip else b"\x89PNG")
    assert ("1 of 4" if skip else "4 of 4") in printed.out
    assert ("3 skipped" in printed.out) is skip


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


def test_names_that_collide(
    folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(folder / "jpeg.png", np.zeros((20, 20, 3), np.uint8))
    lr = tmp_path / "lr"
    assert main(["down", str(folder), "-s", "2", "-o", str(lr), "--weights", weights]) == 1
    error, _, losses = capsys.readouterr().err.partition("\n")
    assert "jpeg.png: would be written to" in error
    assert "jpeg.jpg" in error
    assert losses == losses_in(folder)


def test_compare(
    hr_image: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = tmp_path / "panel.png"
    assert main(["compare", hr_image, "-s", "2.5", "-o", str(panel), "--weights", weights]) == 0
    out = capsys.readouterr().out
    comparison = Rescaler(weights).compare(read_image(hr_image), 2.5)
    assert f"{comparison.quality.psnr_y:.2f}" in out
    assert f"{comparison.bicubic_quality.psnr_y:.2f}" in out
    assert f"PSNR {comparison.lr_psnr:.2f} dB RGB" in out
    assert read_image(panel).shape[1] > 3 * 144


BAD_USAGE = [
    (["-s", "0.5", "-o", "o.png"], "scale 0.5 is out of range: expected 1 < scale <= 4"),
    (["-s", "9", "-o", "o.png"], "scale 9 is out of range"),
    (["-s", "nan", "-o", "o.png"], "scale nan is out of range"),
    (["-s", "abc", "-o", "o.png"], "'abc' is not a scale"),
    (["-s", "2x2x2", "-o", "o.png"], "'2x2x2' is not a scale"),
    (["--size", "40", "-o", "o.png"], "'40' is not a size"),
    (["--fit", "0", "-o", "o.png"], "'0' is not a positive integer"),
    (["-s", "2", "--fit", "9", "-o", "o.png"], "not allowed with"),
    (["-o", "o.png"], "-s or --fit or --size is required"),
    (
        ["-s", "2", "-o", "o.gif"],
        "o.gif: expected a file name that ends in .png, .jpg, .jpeg, .webp",
    ),
    (["-s", "2", "-o", "o.png", "--quality", "90"], "--quality requires a .jpg or .webp file"),
    (["-s", "2", "-o", "o.jpg", "--quality", "101"], "'101' is not a quality"),
    (["-s", "2", "-o", "picture.png"], "is the input file"),
]


@pytest.mark.parametrize(("options", "culprit"), BAD_USAGE)
def test_bad_usage(
    options: list[str],
    culprit: str,
    hr_image: str,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["down", "picture.png", *options, "--weights", weights]) == 2
    assert culprit in complaint(capsys)
    assert os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["down", "gone.png", "-s", "2", "-o", "o.png"], "gone.png: no such file or folder"),
        (["down", "picture.png", "-s", "2", "-o", "no/o.png"], "no: no such folder"),
        (["down", "picture.png", "--fit", "20", "-o", "o.png"], "cannot fit 144x96 into 20"),
        (["down", "picture.png", "--size", "30x30", "-o", "o.png"], "valid sizes are from 36x24"),
        (["down", "empty", "-s", "2", "-o", "out"], "empty: no images in this folder"),
        (
            ["down", "picture.png", "-s", "2", "-o", "o.png", "--weights", "gone.pth"],
            "gone.pth: no such weights file",
        ),
        (["test", "-opt", "gone.yml"], "gone.yml: No such file"),
        (["prepare", "lmdb", "gone", "o.lmdb"], "gone"),
    ],
)
def test_failures(
    arguments: list[str],
    culprit: str,
    hr_image: str,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if arguments[0] == "down" and "--weights" not in arguments:
        arguments = [*arguments, "--weights", weights]
    assert main(arguments) == 1
    assert culprit in complaint(capsys)
    assert sorted(os.listdir(tmp_path)) == ["empty", "picture.png"]


def test_a_full_disk_leaves_nothing_half_written(
    hr_image: str, weights: str, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk: the write fails in the middle."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "lr.png").write_bytes(b"the old one")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "rescale_app.cli", "down", hr_image, "-s", "1.1"),
            *("-o", str(out / "lr.png"), "--weights", weights),
        ],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert f"{out / 'lr.png'}: File too large" in result.stderr
    assert os.listdir(out) == ["lr.png"]
    assert (out / "lr.png").read_bytes() == b"the old one"


def test_a_full_tmpfs_leaves_nothing_half_written(
    hr_image: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        target = disk / "lr.png"
        assert main(["down", hr_image, "-s", "1.1", "-o", str(target), "--weights", weights]) == 1
        assert f"{target}: No space left on device" in complaint(capsys)
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_help_loads_neither_pytorch_nor_basicsr() -> None:
    code = (
        "import sys; from rescale_app.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'basicsr', 'cv2'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


def test_restoring_does_not_load_basicsr(hr_image: str, weights: str, tmp_path: Path) -> None:
    code = (
        "import sys; from rescale_app.cli import main\n"
        f"assert main(['down', {hr_image!r}, '-s', '2', '-o', 'lr.png', '--weights', {weights!r}])"
        " == 0\n"
        f"assert main(['up', 'lr.png', '-o', 'back.png', '--weights', {weights!r}]) == 0\n"
        "sys.exit('basicsr' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_installed_command() -> None:
    program = Path(sys.executable).with_name("rescale")
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("rescale 0.")
    result = subprocess.run([program, "shrink"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="measures its address space by /proc")
def test_an_image_that_does_not_fit_in_memory_is_not_called_broken(tmp_path: Path) -> None:
    write_image(tmp_path / "large.png", np.zeros((6000, 6000, 3), np.uint8))
    code = (
        "import re, resource, sys\n"
        "from pathlib import Path\n"
        "from rescale_app.cli import main\n"
        "import rescale_app.rescaler\n"
        "used = int(re.search(r'VmSize:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "limit = (used << 10) + (75 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "sys.exit(main(['down', 'large.png', '-s', '2', '-o', 'lr.png']))"
    )
    result = command(tmp_path, "-c", code)
    assert result.returncode == 1, result.stderr
    assert result.stderr == "rescale: error: large.png: not enough memory to decode the image\n"


@pytest.mark.skipif(sys.platform != "linux", reason="measures its address space by /proc")
def test_out_of_memory_advises_tiles(weights: str, tmp_path: Path) -> None:
    """A limit on the address space stands for the memory: the image in float32 is over it."""
    write_image(tmp_path / "large.png", np.zeros((6000, 6000, 3), np.uint8))
    code = (
        "import re, resource, sys\n"
        "from pathlib import Path\n"
        "from rescale_app.cli import main\n"
        "import rescale_app.rescaler\n"
        "used = int(re.search(r'VmSize:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "limit = (used << 10) + (400 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "sys.exit(main(['down', 'large.png', '-s', '2', '-o', 'lr.png', '--tile', 'none', "
        f"'--weights', {weights!r}]))"
    )
    result = command(tmp_path, "-c", code)
    assert result.returncode == 1, result.stderr
    assert result.stderr == (
        "rescale: error: large.png: not enough memory on cpu for an image of 6000x6000: tiles need "
        "less memory (--tile 1536; in Python, tile=1536)\n"
    )
