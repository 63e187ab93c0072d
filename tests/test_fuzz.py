"""Thousands of generated inputs: each is processed or rejected in one line, without partial files.

The functions of the command run in this process. Some inputs are also passed to the real command;
not all, since loading PyTorch takes seconds.
"""

import io
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from training import PLUGIN, changed, train_options
from training import test_options as options_for_tests

from rescale_app.cli import main
from rescale_arch import AIDN, lr_size
from rescale_data.image_file import read_image, read_info
from rescale_model.options import check_options

pytestmark = pytest.mark.slow

CHUNKS = 10
IMAGES_IN_A_CHUNK = 130
OPTIONS_IN_A_CHUNK = 70
REAL_COMMANDS = 40

FORMATS = {
    ".png": ("PNG", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    ".jpg": ("JPEG", ["L", "RGB", "CMYK", "YCbCr"]),
    ".jpeg": ("JPEG", ["L", "RGB", "CMYK"]),
    ".bmp": ("BMP", ["1", "L", "P", "RGB", "RGBA"]),
    ".tif": ("TIFF", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "I", "LAB"]),
    ".tiff": ("TIFF", ["L", "RGB"]),
    ".webp": ("WEBP", ["RGB", "RGBA"]),
}
NAMES = [
    "a",
    "picture",
    "with space",
    "ümlaut",
    "dots.in.it",
    "-s",
    "%d",
    "'quoted'",
    "[1]",
    "n\nl",
]
SCALES = ["1.1", "2", "2.5", "4", "1.5x3", "3x1", "1x1", "1", "0", "-2", "4.01", "nan", "inf", "x",
          "2x", "1e0", "1e400", "2,5", "", "\uff12"]  # fmt: skip
SIZES = ["1x1", "20x20", "64x48", "400x400", "0x5", "5", "x", "-1x5", "9999999999x1", "20X20"]
NUMBERS = ["1", "8", "50", "100", "101", "0", "-5", "x", "1.5", ""]
OUTPUTS = [
    "out.png",
    "out.jpg",
    "out.JPEG",
    "out.webp",
    "out",
    "folder",
    "gone/out.png",
    "",
    "/proc",
]


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.manual_seed(0)
    torch.save(AIDN(num_feat=8, num_block=2, adapt_interval=1).state_dict(), path)
    return str(path)


def in_process(folder: Path, arguments: list[str]) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    return Result(code, out.getvalue(), err.getvalue())


def by_the_command(folder: Path, arguments: list[str]) -> Result:
    result = subprocess.run(
        [sys.executable, "-m", "rescale_app.cli", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    return Result(result.returncode, result.stdout, result.stderr)


# images ---------------------------------------------------------------------------------------


def hr_image(rng: random.Random, folder: Path) -> Path:
    """An image of any size, mode and format, or a damaged one."""
    suffix = rng.choice(list(FORMATS))
    kind, modes = FORMATS[suffix]
    mode = rng.choice(modes)
    height, width = (
        rng.choice([1, 2, 7, 8, 9, rng.randint(1, 100), rng.randint(1, 400)]) for _ in "hw"
    )
    noise = np.random.default_rng(rng.getrandbits(32))
    if mode in ("I;16", "I"):
        pixels = noise.integers(0, 65536, (height, width))
        image = Image.fromarray(pixels.astype(np.uint16 if mode == "I;16" else np.int32))
    elif mode in ("F", "LAB"):
        image = Image.new(mode, (width, height))
    else:
        pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    if rng.random() < 0.2 and kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        exif[0x0112] = rng.randint(0, 9)  # the orientation
    path = folder / f"{rng.choice(NAMES)}{rng.choice([suffix, suffix, suffix.upper()])}"
    image.save(path, kind, exif=exif)
    if rng.random() < 0.35:
        path.write_bytes(ruined(rng, path.read_bytes()))
    if rng.random() < 0.05:
        path = path.rename(path.with_suffix(rng.choice([".txt", ".png", ".jpg", ""])))
    return path


def ruined(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data))
    match rng.randrange(6):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + bytes(len(data) - place)
        case 2:
            return b""
        case 3:
            return rng.randbytes(50)
        case 4:
            return data[:place] + rng.randbytes(20) + data[place + 20 :]
        case _:
            return data[:place] + data[place + rng.randint(1, 30) :]


def arguments_for(rng: random.Random, source: str) -> list[str]:
    """Mostly realistic arguments, sometimes arbitrary ones."""
    result = ["--", source] if source.startswith("-") and rng.random() < 0.5 else [source]
    match rng.randrange(10):
        case 0 | 1:
            options = ["--fit", rng.choice(NUMBERS)]
        case 2 | 3:
            options = ["--size", rng.choice(SIZES)]
        case 4 | 5:
            options = ["-s", rng.choice(SCALES)]
        case _:
            options = ["-s", f"{rng.uniform(1.05, 4):.2f}"]
    options += ["-o", rng.choice(OUTPUTS) if rng.random() < 0.4 else "out.png"]
    if rng.random() < 0.2:
        options += ["--quality", rng.choice(NUMBERS)]
    if rng.random() < 0.1:
        options += ["--format", rng.choice(["png", "jpg", "gif"])]
    if rng.random() < 0.1:
        options += rng.choice(
            [["--scales"], ["-m"], ["-m", "vqir16"], ["-o"], ["--tile", "-3"], ["x"]]
        )
    return [*options, *result]


def check_one(folder: Path, source: Path, arguments: list[str], run: Any, weights: str) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = run(folder, ["down", "--weights", weights, *arguments])
    made = sorted(check_outcome(folder, source, result, before))
    if not made:
        return
    (lr,) = made
    info = read_info(lr)
    assert info is not None
    hr = read_image(source)
    assert info.size == hr.shape[:2]
    if info.scale != (1.0, 1.0):
        assert read_image(lr).shape[:2] == lr_size(info.size, info.scale)

    before[lr] = lr.read_bytes()
    result = run(folder, ["up", str(lr), "-o", "restored.png", "--weights", weights])
    (restored,) = check_outcome(folder, lr, result, before)
    assert read_image(restored).shape == hr.shape


def check_outcome(
    folder: Path, source: Path, result: Result, before: dict[Path, bytes]
) -> Iterator[Path]:
    """Checks invariants of any outcome; returns the images that were written."""
    assert result.code in (0, 1, 2)
    assert "Traceback" not in result.out + result.err
    lines = result.err.splitlines()
    assert all(line.startswith("rescale: ") for line in lines), result.err
    errors = [line for line in lines if line.startswith("rescale: error: ")]
    assert len(errors) == (result.code != 0), result.err
    after = {path for path in folder.rglob("*") if path.is_file()}
    made = after - before.keys()
    assert len(made) == (result.code == 0), made
    for path, content in before.items():
        assert path.read_bytes() == content, f"{path} was changed"
    if result.code == 1:  # 2: the command line is named
        name = " ".join(source.name.split())
        # the weights where they are of another network than -m says; the folder of the result
        others = ("weights of aidn, not of vqir16", "no such f")
        assert name in errors[0] or any(other in errors[0].lower() for other in others), errors
    for path in made:
        with Image.open(path) as image:
            image.load()
    return iter(made)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_images(chunk: int, weights: str, tmp_path: Path) -> None:
    for number in range(IMAGES_IN_A_CHUNK):
        run_case(f"{chunk}-{number}", in_process, weights, tmp_path)


def test_images_through_the_real_command(weights: str, tmp_path: Path) -> None:
    for number in range(REAL_COMMANDS):
        run_case(f"real-{number}", by_the_command, weights, tmp_path)


def run_case(name: str, run: Any, weights: str, folder: Path) -> None:
    rng = random.Random(name)
    folder = folder / name
    (folder / "folder").mkdir(parents=True)
    source = hr_image(rng, folder)
    arguments = arguments_for(rng, source.name)
    try:
        check_one(folder, source, arguments, run, weights)
    except BaseException as error:
        raise AssertionError(f"case {name}: rescale down {arguments}: {error!r}") from error


# folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_folders(seed: int, weights: str, tmp_path: Path) -> None:
    """The valid images of a folder are processed, and the others are reported."""
    rng = random.Random(seed)
    folder = tmp_path / "in"
    folder.mkdir()
    for _ in range(10):
        hr_image(rng, folder)
    count = sum(path.suffix.lower() in FORMATS for path in folder.iterdir())
    result = in_process(tmp_path, ["down", "in", "-s", "2", "-o", "lr", "--weights", weights])
    assert result.code in (0, 1)
    lines = result.err.splitlines()
    errors = [line for line in lines if not line.startswith("rescale: warning: in/")]
    assert all(line.startswith("rescale: error: in/") for line in errors), result.err
    assert len(list((tmp_path / "lr").iterdir())) == count - len(errors)
    for kind in ("mod-crop", "meta-info", "sub-images", "lmdb"):
        target = f"out-{kind}.lmdb"
        result = in_process(tmp_path, ["prepare", kind, "in", target])
        assert result.code in (0, 1)
        assert (tmp_path / target).exists() == (result.code == 0)
        assert all("in/" in line or "rescale: error: " in line for line in result.err.splitlines())


# option files -----------------------------------------------------------------------------------


VALUES: list[Any] = [None, True, 0, -1, 2.5, 10**30, float("nan"), "", "1e-4", "~", "é", [], [None],
                     {}, {"type": []}, {None: 1}, "/", "\0", [[1.5]], {"type": "AIDN"}]  # fmt: skip


def sections(options: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    yield options
    for value in options.values():
        if isinstance(value, dict):
            yield from sections(value)


def mutated(rng: random.Random, options: dict[str, Any]) -> bytes:
    """An option file with a random change, possibly invalid YAML."""
    options = changed(options, {})
    for _ in range(rng.randint(0, 3)):
        section = rng.choice([each for each in sections(options) if each])
        key = rng.choice(list(section))
        match rng.randrange(4):
            case 0:
                del section[key]
            case 1:
                section[str(key)[: rng.randrange(6)] + rng.choice(["x", "", "_g"])] = section.pop(
                    key
                )
            case _:
                section[key] = rng.choice(VALUES)
    text = (PLUGIN + yaml.safe_dump(options, sort_keys=False)).encode()
    return ruined(rng, text) if rng.random() < 0.3 else text


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_option_files(chunk: int, hr_folder: Path, weights: str, tmp_path: Path) -> None:
    originals = (train_options(hr_folder, hr_folder), options_for_tests(hr_folder, Path(weights)))
    del originals[0]["datasets"]["train"]["io_backend"]
    refused = 0
    for number in range(OPTIONS_IN_A_CHUNK):
        rng = random.Random(f"{chunk}-{number}")
        kind = rng.randrange(2)
        path = tmp_path / "options.yml"
        path.write_bytes(mutated(rng, originals[kind]))
        command = ["train", "test"][kind]
        try:
            check_options(str(path), is_train=command == "train")
        except ValueError as error:
            refused += 1
            result = in_process(tmp_path, [command, "-opt", str(path)])
            assert result.code == 1
            told = " ".join(f"rescale: error: {error}".split())
            assert result.err == f"{told}\n", (chunk, number)
            assert str(path) in result.err
            assert os.listdir(tmp_path) == ["options.yml"]
        except BaseException as error:
            raise AssertionError(f"case {chunk}-{number}: {path.read_bytes()!r}") from error
    assert refused > OPTIONS_IN_A_CHUNK / 3
