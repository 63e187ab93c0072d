"""The ``rescale`` command as a process: what it loads, full disks, too little memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import complaint
from training import command

from rescale_app.cli import main
from rescale_data.image_file import write_image


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


def down_with_little_memory(
    folder: Path, megabytes: int, *options: str
) -> subprocess.CompletedProcess[str]:
    """``rescale down`` of a large image where the process may grow by so much.

    A limit on the address space stands for the memory.
    """
    write_image(folder / "large.png", np.zeros((6000, 6000, 3), np.uint8))
    code = (
        "import re, resource, sys\n"
        "from pathlib import Path\n"
        "from rescale_app.cli import main\n"
        "import rescale_app.rescaler\n"
        "used = int(re.search(r'VmSize:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        f"limit = (used << 10) + ({megabytes} << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "sys.exit(main(['down', 'large.png', '-s', '2', '-o', 'lr.png', *sys.argv[1:]]))"
    )
    return command(folder, "-c", code, *options)


@pytest.mark.skipif(sys.platform != "linux", reason="measures its address space by /proc")
def test_an_image_that_does_not_fit_in_memory_is_not_called_broken(tmp_path: Path) -> None:
    result = down_with_little_memory(tmp_path, 75)
    assert result.returncode == 1, result.stderr
    assert result.stderr == "rescale: error: large.png: not enough memory to decode the image\n"


@pytest.mark.skipif(sys.platform != "linux", reason="measures its address space by /proc")
def test_out_of_memory_advises_tiles(weights: str, tmp_path: Path) -> None:
    """The image in float32 is over the limit."""
    result = down_with_little_memory(tmp_path, 400, "--tile", "none", "--weights", weights)
    assert result.returncode == 1, result.stderr
    assert result.stderr == (
        "rescale: error: large.png: not enough memory on cpu for an image of 6000x6000: tiles need "
        "less memory (--tile 1536; in Python, tile=1536)\n"
    )
