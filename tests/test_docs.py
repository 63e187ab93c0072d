"""Commands and Python examples in the documentation run.

Commands in blocks are run in order, in a folder with small data under the names that the pages use.
Trainings and tests are shortened to a tiny network and a few iterations. Commands in running text
are run as well, except trainings and tests, whose option files are checked.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from documentation import (
    OTHERS,
    PAGES,
    ROOT,
    block_commands,
    blocks,
    forced,
    hr_image,
    inline_commands,
    option_file,
    trains,
)
from tiny_networks import AIDN_TINY
from training import fresh_logger
from vq_training import VQ

import rescale_model  # noqa: F401  registers
from rescale_app import cli
from rescale_arch import AIDN, VQGAN, VQIR
from rescale_data.image_file import read_image, write_image
from rescale_data.prepare import build_lmdb, crop_to_multiple, extract_sub_images
from rescale_model.options import check_options, read_options

# Beginnings of commands that are not run, and why.
EXCEPTIONS = {
    "conda": "downloads; test_docs_pages.py checks what the file says",
    "make demo": "takes minutes; test_demo.py runs it shortened",
    "make": "the target must exist; the continuous integration runs them",
    "pip install": "downloads; test_packaging.py installs the wheel",
    "python basicsr/": "the option file is checked; test_basicsr_runner.py runs the scripts",
    "python -m rescale_compat": "the option file is checked; test_basicsr_runner.py runs it",
    "python -m http.server": "serves until it is stopped",
    "python docs/generate_options.py": "test_the_option_reference_is_up_to_date does it",
    "python tools/install_basicsr.py": "downloads; test_packaging.py builds another package",
    "rescale export page": "fetches from npm; test_export_page.py runs it",
    "srun": "needs SLURM; the option file is checked",
    "tensorboard": "serves until it is stopped",
    "torchrun": "needs GPUs; the option file is checked, test_distributed.py runs two",
}
SHELL = ("mkdir", "mv", "cp", "cd")
SHIPPED: dict[str, dict[str, Any]] = {
    "AIDN": {"num_feat": 32, "num_block": 8},
    "VQIR": {"factor": 16},
}


def begins(words: Sequence[str], beginning: str) -> bool:
    return f"{' '.join(words)} ".startswith(beginning)


def exception(words: Sequence[str]) -> str | None:
    return next((start for start in EXCEPTIONS if begins(words, start)), None)


def is_slow(page: Path) -> bool:
    return any(
        words[:1] == ["rescale"] and (option_file(words) or words[1] == "export")
        for words in block_commands(page)
    )


# a folder with the data of the pages ------------------------------------------------------------


def save(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, datasets and weights of tiny networks, under the names that the pages use."""
    folder = tmp_path_factory.mktemp("docs")
    for path, kind, height, width in (
        ("photo.jpg", "coffee", 100, 120),
        ("chelsea.png", "chelsea", 96, 110),
        ("photos/a.png", "coffee", 64, 72),
        ("photos/b.jpg", "rocket", 72, 64),
        ("DIV2K_train_HR/0001.png", "astronaut", 130, 140),
        ("DIV2K_train_HR/0002.png", "coffee", 140, 130),
        ("DIV2K_valid_HR/0801.png", "astronaut", 420, 418),  # an LR image of 14 x 14 by 32
        ("BSDS400/1.jpg", "rocket", 110, 100),
        ("datasets/Set5/HR/1.png", "chelsea", 130, 230),  # NIQE needs 96 x 192 without borders
        *((f"datasets/{n}/HR/1.png", "chelsea", 100, 110) for n in
          ("Set14", "BSD100", "Urban100")),
    ):  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / path, hr_image(kind, height, width))
    datasets = folder / "datasets"
    for name in ("Set5", "Set14"):
        crop_to_multiple(datasets / name / "HR", datasets / name / "GTmod12")
    for name in ("sub", "sub1024"):
        extract_sub_images(folder / "DIV2K_train_HR", datasets / "DIV2K" / name, 128, 128)
        build_lmdb(datasets / "DIV2K" / name, datasets / "DIV2K" / f"{name}.lmdb")
    build_lmdb(folder / "BSDS400", datasets / "BSDS400.lmdb")
    shutil.copytree(folder / "DIV2K_valid_HR", datasets / "DIV2K" / "DIV2K_valid_HR")

    weights: dict[str, dict[str, torch.Tensor]] = {
        "aidn": AIDN(**AIDN_TINY).state_dict(),
        "aidn_x4": AIDN(fixed_scale=4, **AIDN_TINY).state_dict(),
        "vqgan": VQGAN(**VQ).state_dict(),
    }
    for factor in (16, 32):
        for stage in (1, 2):
            network = VQIR(factor, stage, **VQ)  # type: ignore[arg-type]
            weights[f"vqir{factor}_stage{stage}"] = network.state_dict()
    for name in ("aidn_plus", "aidn_small"):
        weights[name] = weights["aidn"]
    for name in ("vqgan", "vqir16_stage1", "vqir16_stage2"):
        weights[name.replace("vqgan", "vqgan_small").replace("16_", "16_small_")] = weights[name]
    for name, entries in weights.items():
        content = {"params": entries, "params_ema": entries}
        save(folder / "experiments" / name / "models" / "net_g_latest.pth", content)
    save(folder / "aidn.pth.tar", {"state_dict": weights["aidn"]})
    both = {"params": weights["aidn"], "params_ema": weights["aidn"]}
    save(folder / "net_g_latest.pth", both)
    for path in (folder / "last.ckpt", datasets / "vqgan_imagenet_f16_1024.ckpt"):
        save(path, {"state_dict": weights["vqgan"] | {"loss.a": torch.zeros(1)}})
    for stage in (1, 2):
        save(folder / f"vqir16_stage{stage}.pth", weights[f"vqir16_stage{stage}"])
    save(folder / "vqir16.pth", weights["vqir16_stage2"])

    (folder / "options").symlink_to(ROOT / "options")
    (folder / "aidn.yml").symlink_to(ROOT / "options" / "train" / "aidn.yml")
    (folder / "rescale_app").mkdir()
    (folder / "rescale_app" / "weights").symlink_to(ROOT / "rescale_app" / "weights")
    return folder


@pytest.fixture
def folder(ready: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it, as the current folder."""
    shutil.copytree(ready, tmp_path / "here", symlinks=True)
    with chdir(tmp_path / "here"):
        yield tmp_path / "here"


def remove_what_is_made(commands: Sequence[Sequence[str]]) -> None:
    """Removes files that a page creates itself, so that no command depends on earlier ones."""
    for words in commands:
        made = None
        if words[:2] == ["rescale", "prepare"]:
            made = Path(words[4])
        elif words[0] == "mv":
            made = Path(words[2], words[1])
        elif words[:2] == ["rescale", "train"]:
            made = Path("experiments", read_options(option_file(words) or "")["name"])
        if made is not None and made.is_dir():
            shutil.rmtree(made)


# commands ---------------------------------------------------------------------------------------


def tiny(words: Sequence[str]) -> list[str]:
    """Values for ``--force_yml`` that shorten a training or test to seconds."""
    options = read_options(option_file(words) or "")
    if options["model_type"] == "BenchmarkModel":
        return ["datasets:test:sets=['Set5']", "val:scales=[2]", "val:cost_size=64"]
    network = AIDN_TINY if options["network_g"]["type"] == "AIDN" else VQ
    if "rescale_app/weights" in f"{options['path']}{words}":
        network = SHIPPED[options["network_g"]["type"]]
    values: dict[str, Any] = {f"network_g:{key}": value for key, value in network.items()}
    if trains(words):
        values |= {
            "train:total_iter": 2,
            "train:percep_opt": "none",  # needs LPIPS and its weights
            "train:gan_start": 2,
            "datasets:train:gt_size": 64,
            "datasets:train:batch_size_per_gpu": 1,
            "datasets:train:num_worker_per_gpu": 0,
            "logger:print_freq": 1,
            "logger:save_checkpoint_freq": 1,
            "logger:use_tb_logger": "false",
        }
        if options.get("network_d"):
            values["network_d:num_feat"] = 4
        for key in ("percep_opt", "gan_start"):
            if key not in options["train"]:  # an option of other models
                del values[f"train:{key}"]
    said = forced(words)
    keys = {entry.partition("=")[0] for entry in said}
    return said + [
        f"{key}={value}".replace(" ", "")
        for key, value in values.items()
        if key not in keys or key == "train:total_iter"
    ]


def run_rescale(words: Sequence[str]) -> None:
    arguments = list(words[1:])
    if option_file(words):
        if "--force_yml" in arguments:
            start = arguments.index("--force_yml")
            del arguments[start : start + 1 + len(forced(words))]
        with fresh_logger():
            assert cli.main([*arguments, "--force_yml", *tiny(words)]) == 0, words
    else:
        assert cli.main(arguments) == 0, words


def check(words: Sequence[str]) -> None:
    file = option_file(words)
    assert file is not None
    check_options(file, is_train=trains(words), forced=forced(words))


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.name)
def test_option_files_in_commands_are_valid(page: Path, folder: Path) -> None:
    for words in block_commands(page) + inline_commands(page):
        if option_file(words):
            check(words)


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] if is_slow(p) else []) for p in OTHERS],
    ids=lambda page: page.name,
)
def test_commands_run(page: Path, folder: Path) -> None:
    commands = block_commands(page)
    remove_what_is_made(commands)
    for words in commands:
        if begins(words, "make "):
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), words
        elif exception(words):
            continue
        elif words[0] == "rescale":
            run_rescale(words)
        elif words[0] in SHELL:
            subprocess.run(words, check=True)
        else:
            pytest.fail(f"{page.name}: neither run nor listed with a reason: {shlex.join(words)}")
    inline = [w for w in inline_commands(page) if not option_file(w) and not exception(w)]
    remove_what_is_made(inline)
    for words in inline:
        run_rescale(words)


def test_every_exception_is_used() -> None:
    everything = [w for page in PAGES for w in block_commands(page) + inline_commands(page)]
    used = {exception(words) for words in everything}
    assert used - {None} == EXCEPTIONS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_are_valid(page: Path) -> None:
    for _, content in blocks(page, "sh", "bash"):
        subprocess.run(["bash", "-n"], input=content, text=True, check=True)


# examples in Python -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(not n for n, _ in blocks(p, "python"))], ids=lambda p: p.name
)
def test_python_blocks_run(page: Path, folder: Path) -> None:
    names: dict[str, Any] = {"array": read_image("photo.jpg"), "hr": torch.rand(1, 3, 24, 31)}
    for name, content in blocks(page, "python"):
        if name is None:
            exec(compile(content, page.name, "exec"), names)
    if page.name == "README.md":
        assert names["restored"].shape == names["hr"].shape
