"""`rescale down --max-bytes`: every file is within its limits, and not smaller than necessary."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from rescale_app import Rescaler
from rescale_app.cli import main
from rescale_app.commands.arguments import byte_count
from rescale_app.limits import LOWEST_QUALITY
from rescale_app.lr_image import LRImage
from rescale_app.quality import image_quality
from rescale_data.encoding import encode_image
from rescale_data.image_file import read_image, read_info, write_image

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def photographs(count: int, longest: int) -> dict[str, np.ndarray]:
    """Photographs and their mirror images and turns, of different sizes."""
    result = {}
    for index in range(count):
        image = Image.fromarray(getattr(data, PHOTOGRAPHS[index % 4])()).convert("RGB")
        side = longest * (10 - index) // 10
        image = image.crop((0, 0, image.width - 9 * index, image.height - 5 * index))
        height = round(side * image.height / image.width)
        image = image.resize((side, height), Image.Resampling.BICUBIC)
        turned = np.rot90(np.asarray(image), index // 4)
        result[f"{index}-{PHOTOGRAPHS[index % 4]}"] = np.ascontiguousarray(turned)
    return result


@pytest.fixture
def down(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., tuple[int, str, list[str]]]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, by: str = weights) -> tuple[int, str, list[str]]:
        chosen = ["--weights", by] if by else []
        code = main(["down", *arguments, *chosen])
        printed = capsys.readouterr()
        return code, printed.out, printed.err.splitlines()

    return run


def check_limits(folder: Path, images: dict[str, np.ndarray], fit: int, limit: int) -> None:
    assert sorted(path.stem for path in folder.iterdir()) == sorted(images)
    for path in folder.iterdir():
        assert path.stat().st_size <= limit
        assert max(read_image(path).shape) <= fit
        info = read_info(path)
        assert info is not None
        assert info.size == images[path.stem].shape[:2]


def test_ten_photographs_within_both_limits(down: Any, weights: str) -> None:
    images = photographs(10, 400)
    Path("in").mkdir()
    for name, image in images.items():
        write_image(f"in/{name}.png", image)
    arguments = ["--fit", "200", "--max-bytes", "6k"]
    code, out, errors = down("in", "-o", "out", *arguments)
    assert (code, errors) == (0, [])
    check_limits(Path("out"), images, 200, 6000)
    table = out.partition("SSIM Y\n")[2]
    rows = {line.split()[0]: line.split() for line in table.splitlines()}
    assert len(rows) == 10
    rescaler = Rescaler(weights)
    for name, image in images.items():
        lr, info = read_image(f"out/{name}.jpg"), read_info(f"out/{name}.jpg")
        assert info is not None
        size, lr_size, scale, quality, size_in_bytes, psnr, ssim = rows[f"{name}.png"][1:]
        assert size == f"{image.shape[1]}x{image.shape[0]}"
        assert lr_size == f"{lr.shape[1]}x{lr.shape[0]}"
        assert float(scale) == pytest.approx(info.scale[0], abs=5e-4)
        assert int(size_in_bytes.replace(",", "")) == Path(f"out/{name}.jpg").stat().st_size
        restored = rescaler.upscale(LRImage(lr, info))
        border = int(np.ceil(max(info.scale)))
        expected = image_quality(image, restored, border)
        assert float(psnr) == pytest.approx(expected.psnr_y, abs=0.006)
        assert float(ssim) == pytest.approx(expected.ssim_y, abs=6e-5)
        if info.scale == (1, 1):
            continue
        # The next quality takes too much; so does a scale that is smaller by 3 %.
        made = rescaler.downscale(image, info.scale)
        sizes = [
            len(encode_image(made.pixels, ".jpg", quality=q, info=info))
            for q in (int(quality), int(quality) + 1)
        ]
        assert sizes[0] <= 6000
        assert sizes[1] > 6000 or quality == "95"
        smallest = max(image.shape) / 200
        if info.scale[0] > smallest * 1.03:
            larger = rescaler.downscale(image, info.scale[0] / 1.03)
            least = encode_image(larger.pixels, ".jpg", quality=LOWEST_QUALITY, info=larger.info)
            assert len(least) > 6000


@pytest.mark.slow
def test_ten_photographs_of_megapixels(down: Any) -> None:
    images = photographs(10, 2000)
    Path("in").mkdir()
    for name, image in images.items():
        write_image(f"in/{name}.png", image)
    code, out, errors = down("in", "-o", "out", "--fit", "1600", "--max-bytes", "150k")
    assert (code, errors) == (0, [])
    check_limits(Path("out"), images, 1600, 150_000)
    assert out.partition("SSIM Y\n")[2].count("\n") == 10


def test_webp_is_lossless_where_that_fits(down: Any) -> None:
    """The weights follow: aidn-small, or aidn-plus where the file ends up lossy."""
    write_image("a.png", photographs(1, 200)["0-astronaut"])
    for limit, lossless, name in (("60k", True, "aidn-small"), ("5k", False, "aidn-plus")):
        code, out, errors = down("a.png", "-o", "a.webp", "-s", "2", "--max-bytes", limit, by="")
        assert (code, errors) == (0, [])
        assert Path("a.webp").stat().st_size <= byte_count(limit)
        assert ("lossless" in out) is lossless
        info = read_info("a.webp")
        assert info is not None
        assert info.weights == Rescaler(name, device="cpu").fingerprint
        assert info.scale == (2, 2)


def test_png_searches_scales_alone(down: Any) -> None:
    image = photographs(1, 300)["0-astronaut"]
    write_image("a.png", image)
    code, out, _ = down("a.png", "-o", "b.png", "--fit", "300", "--max-bytes", "50k")
    assert code == 0
    size = Path("b.png").stat().st_size
    assert 47_000 < size <= 50_000
    assert "lossless" in out


def test_what_fits_as_it_is_keeps_its_size(down: Any) -> None:
    image = photographs(1, 100)["0-astronaut"]
    write_image("a.png", image)
    code, out, _ = down("a.png", "-o", "b.jpg", "--fit", "300", "--max-bytes", "1M")
    assert code == 0
    assert "already fits, size unchanged" in out
    assert read_image("b.jpg").shape == image.shape
    assert " 95 " in out
    code, out, _ = down("a.png", "-o", "b.webp", "--max-bytes", "1M")
    assert (code, "inf" in out) == (0, True)
    np.testing.assert_array_equal(read_image("b.webp"), image)


def test_metadata_counts(down: Any) -> None:
    exif = Image.Exif()
    exif[271] = "M" * 3000
    Image.fromarray(photographs(1, 300)["0-astronaut"]).save("a.png", exif=exif)
    scales = []
    for options in ([], ["--strip"]):
        code, _, _ = down("a.png", "-o", "b.jpg", "--max-bytes", "6k", *options)
        assert code == 0
        assert Path("b.jpg").stat().st_size <= 6000
        info = read_info("b.jpg")
        assert info is not None
        scales.append(info.scale[0])
    assert scales[0] > scales[1] * 1.2


def test_hints_go_with_limits(down: Any) -> None:
    write_image("a.png", photographs(1, 200)["0-astronaut"])
    assert down("a.png", "-o", "b.jpg", "-s", "2", "--max-bytes", "9k", "--hint-name")[0] == 0
    (path,) = Path().glob("b.*")
    assert path.name == "b.s2.200x200.jpg"


@pytest.mark.parametrize(
    ("options", "code", "culprit"),
    [
        (["--max-bytes", "900"], 1, "a.png: cannot be stored in 900 bytes: by 4, the largest "
         "factor, a file of quality 75 takes "),
        (["--max-bytes", "1k", "-s", "2"], 1, "cannot be stored in 1,000 bytes: at scale 2, a "
         "file of quality 75 takes "),
        (["--max-bytes", "9k", "--fit", "40"], 1, "cannot fit 200x200 into 40"),
        (["--max-bytes", "9k", "--quality", "90"], 2, "--max-bytes chooses the quality"),
        (["--max-bytes", "9k", "--effort", "2"], 2, "--effort is not supported with --max-bytes"),
        (["--max-bytes", "lots"], 2, "'lots' is not a number of bytes: expected 150000, 150k"),
        (["--max-bytes", "0"], 2, "'0' is less than a byte"),
    ],
)  # fmt: skip
def test_impossible_limits_are_named(
    options: list[str], code: int, culprit: str, down: Any
) -> None:
    write_image("a.png", photographs(1, 200)["0-astronaut"])
    got, _, errors = down("a.png", "-o", "b.jpg", *options)
    assert got == code
    (error,) = errors
    assert culprit in error
    assert not Path("b.jpg").exists()


def test_a_file_that_does_not_fit_does_not_stop_the_others(down: Any) -> None:
    Path("in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    write_image("in/noise.png", noise)
    write_image("in/plain.png", np.zeros_like(noise))
    code, out, (error,) = down("in", "-o", "out", "--max-bytes", "1.2k")
    assert code == 1
    assert "in/noise.png: cannot be stored in 1,200 bytes" in error
    assert "1 of 2 images written to out, 1 failed" in out
    assert "plain.png" in out


@pytest.mark.parametrize(
    ("text", "count"),
    [("150000", 150_000), ("150k", 150_000), ("150K", 150_000), ("1.5M", 1_500_000),
     ("200kB", 200_000), ("200KiB", 204_800), ("2MiB", 2 * 1024**2), ("7 kB", 7000)],
)  # fmt: skip
def test_numbers_of_bytes(text: str, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "-5", "5G", "5ib", "1e5", "0.0001", "5 5"])
def test_invalid_numbers_of_bytes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        byte_count(text)
