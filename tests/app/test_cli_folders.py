"""``rescale down`` and ``up`` on folders: what is written, skipped and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ODD_SIZES, complaint, losses_in

from rescale_app import Rescaler
from rescale_app.cli import main
from rescale_data.image_file import read_image, write_image


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
