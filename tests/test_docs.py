"""The documentation is correct: commands and examples run, links are valid.

Commands in blocks are run in order, in a folder with small data under the names that the pages use.
Trainings and tests are shortened to a tiny network and a few iterations. Commands in running text
are run as well, except trainings and tests, whose option files are checked.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from skimage import data
from training import _fresh_logger

import rescale_model  # noqa: F401  registers
from rescale_app import cli
from rescale_arch import AIDN, VQGAN, VQIR
from rescale_data.image_file import read_image, read_info, write_image
from rescale_data.prepare import build_lmdb, crop_to_multiple, extract_sub_images
from rescale_model.options import check_options, read_options

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = ROOT / "docs" / "extending.md"  # has its own data and files
OTHERS = [page for page in PAGES if page != EXAMPLE]

# Beginnings of commands that are not run, and why.
EXCEPTIONS = {
    "conda": "downloads; what the file says is checked below",
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

AIDN_TINY: dict[str, Any] = {"num_feat": 8, "num_block": 2, "adapt_interval": 1}
SHIPPED: dict[str, dict[str, Any]] = {
    "AIDN": {"num_feat": 32, "num_block": 8},
    "VQIR": {"factor": 16},
}
VQ_TINY: dict[str, Any] = {
    "ch": 32, "ch_mult": [1, 1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [],
    "z_channels": 32, "embed_dim": 32, "n_embed": 16,
}  # fmt: skip


# --- contents of the pages ------------------------------------------------------------------------


def blocks(page: Path, *languages: str) -> Iterator[tuple[str | None, str]]:
    """The fenced blocks in a language, each with the file name on the line above it, if any."""
    pattern = r"(?:^`([\w./]+)`:\n\n)?^```(\w+)\n(.*?)^```$"
    for name, language, content in re.findall(pattern, page.read_text(), re.M | re.S):
        if language in languages:
            yield name or None, content


def block_commands(page: Path) -> list[list[str]]:
    lines = (
        line
        for _, content in blocks(page, "sh", "bash")
        for line in content.replace("\\\n", " ").splitlines()
    )
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def inline_commands(page: Path) -> list[list[str]]:
    """Complete commands in running text: more than a name, and without ".."."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    found = re.findall(r"`(rescale [^`]+|python (?:(?:basicsr|docs)/|-m rescale)[^`]+)`", prose)
    commands = [shlex.split(code) for code in found]
    return [
        words
        for words in commands
        if (len(words) > 2 or words[0] == "python") and ".." not in words
    ]


def begins(words: Sequence[str], beginning: str) -> bool:
    return f"{' '.join(words)} ".startswith(beginning)


def exception(words: Sequence[str]) -> str | None:
    return next((start for start in EXCEPTIONS if begins(words, start)), None)


def option_file(words: Sequence[str]) -> str | None:
    return words[words.index("-opt") + 1] if "-opt" in words else None


def forced(words: Sequence[str]) -> list[str]:
    if "--force_yml" not in words:
        return []
    values = words[words.index("--force_yml") + 1 :]
    return list(values[: next((i for i, v in enumerate(values) if v.startswith("-")), None)])


def trains(words: Sequence[str]) -> bool:
    return "train" in words or any(word.endswith("/train.py") for word in words)


def is_slow(page: Path) -> bool:
    return any(
        words[:1] == ["rescale"] and (option_file(words) or words[1] == "export")
        for words in block_commands(page)
    )


# --- a folder with the data of the pages ----------------------------------------------------------


def hr_image(name: str, height: int, width: int) -> np.ndarray:
    return np.ascontiguousarray(getattr(data, name)()[:height, :width])


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
        "vqgan": VQGAN(**VQ_TINY).state_dict(),
    }
    for factor in (16, 32):
        for stage in (1, 2):
            network = VQIR(factor, stage, **VQ_TINY)  # type: ignore[arg-type]
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


# --- commands -------------------------------------------------------------------------------------


def tiny(words: Sequence[str]) -> list[str]:
    """Values for ``--force_yml`` that shorten a training or test to seconds."""
    options = read_options(option_file(words) or "")
    if options["model_type"] == "BenchmarkModel":
        return ["datasets:test:sets=['Set5']", "val:scales=[2]", "val:cost_size=64"]
    network = AIDN_TINY if options["network_g"]["type"] == "AIDN" else VQ_TINY
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
        with _fresh_logger():
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


# --- examples in Python ---------------------------------------------------------------------------


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


PAGE = """
from pathlib import Path
from rescale_app.page import results
from rescale_app.page.computing import Source
from rescale_app.page.round_trip import through_jpeg, through_png
from rescale_app.page.weights import load_rescalers

rescaler = load_rescalers(["tiny.safetensors"], "cpu")["tiny.safetensors"]
folder = Path("page")
folder.mkdir()
source = Source(Path("held_out/chelsea.png"), "chelsea.png")
trip = through_png(source, rescaler, None, folder, lambda step, done: None, 10**6)
print(results.png_html(trip, "Tiny"))
jpeg = through_jpeg(trip, rescaler, 90, folder, lambda step, done: None)
print(results.jpeg_html(trip, jpeg, "Tiny"))
"""


@pytest.mark.slow
def test_the_example_of_a_new_network(tmp_path: Path) -> None:
    for name, content in blocks(EXAMPLE, "python", "yaml", "toml"):
        assert name is not None
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    for folder, names in {"photos": ("astronaut", "coffee"), "held_out": ("chelsea",)}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            write_image(tmp_path / folder / f"{name}.png", hr_image(name, 200, 240))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PIP_TARGET": str(tmp_path / "site"),  # an environment of its own would take minutes
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(tmp_path / "site"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        ),
    }
    for _, content in blocks(EXAMPLE, "sh"):
        result = subprocess.run(
            ["bash", "-e"],
            input=content,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    results = tmp_path / "results" / "tiny" / "visualization" / "held_out"
    mean = yaml.safe_load((results / "metrics.json").read_text())["mean"]["x2"]
    assert mean["psnr_y"] > mean["bicubic_psnr_y"] + 0.1
    assert mean["lr_psnr_y"] > 35
    assert read_image(results / "chelsea_x2_hr.png").shape == (200, 240, 3)
    assert read_image(tmp_path / "restored.png").shape == (200, 240, 3)
    info = read_info(tmp_path / "small.png")
    assert info is not None
    assert (info.network, info.scale) == ("tiny", (2.0, 2.0))
    table = (tmp_path / "results" / "tiny_compare" / "benchmark.md").read_text()
    assert "tiny" in table
    page = subprocess.run(
        [sys.executable, "-c", PAGE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert page.returncode == 0, page.stderr
    assert "As JPEG of quality 90" in page.stdout


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_project_exist(page: Path) -> None:
    rooms = "rescale_(?:app|arch|compat|data|model)|tests|benchmarks|docs|options|tools"
    for path in re.findall(rf"`((?:{rooms})/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_option_reference_is_up_to_date() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_options.py"))
    page = (ROOT / "docs" / "options.md").read_text()
    assert page == generator["reference"](), "run: python docs/generate_options.py"


def test_every_option_has_a_line_of_text() -> None:
    page = (ROOT / "docs" / "options.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| [^|]* \| (.*) \|$", page, re.M)
    assert len(rows) > 100
    assert [name for name, text in rows if not text] == []


def test_conda_installs_the_same_packages() -> None:
    text = (ROOT / "environment.yml").read_text()
    assert {"pytorch>=2.4", "torchvision", "pip"} <= set(yaml.safe_load(text)["dependencies"])
    commands = [line.strip("# ") for line in text.splitlines() if line.startswith("#   ")]
    readme = (ROOT / "README.md").read_text()
    assert len(commands) == 2
    for command in commands:
        assert f"\n{command}\n" in readme


def test_the_citation_names_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    readme = " ".join((ROOT / "README.md").read_text().split())
    titles = [reference["title"] for reference in citation["references"]]
    assert len(titles) == 2
    for title in titles:
        assert f"*{title}*" in readme


def test_the_readme_quotes_what_was_measured() -> None:
    """Time and memory of README.md are those of a results file in the repository."""
    section = (ROOT / "README.md").read_text().partition("\n## Speed and memory\n")[2]
    section = section.partition("\n## ")[0]
    (path,) = re.findall(r"\((benchmarks/results/[\w.-]+\.json)\)", section)
    measured = {
        (f"{row['seconds']:.1f}", f"{row['MiB']:.0f}")
        for table in json.loads((ROOT / path).read_text())["tables"]
        for row in table["rows"]
        if "MiB" in row
    }
    quoted = re.findall(r"([\d.]+) s, (\d+) MiB", section)
    assert len(quoted) >= 12
    assert set(quoted) <= measured
