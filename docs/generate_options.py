"""Writes docs/options.md from the schema that option files are checked against.

Keys come from the checker and from the signatures of what is registered; what they mean comes from
the comments of the shipped option files and from docstrings.

    python docs/generate_options.py
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import rescale_compat  # noqa: F401  first: it lets basicsr import

from basicsr.utils.registry import LOSS_REGISTRY, METRIC_REGISTRY

from rescale_arch import AIDN, VQGAN, VQIR
from rescale_data.benchmark_dataset import BenchmarkDataset
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import write_file
from rescale_model.aidn_model import AIDNModel
from rescale_model.benchmark_model import BenchmarkModel
from rescale_model.options import METRIC_EXTRAS, SCHEDULERS, SECTIONS
from rescale_model.rescale_loss import CodeBookLoss, EdgeLoss, GramLoss, LPIPSLoss
from rescale_model.rescaling_model import RescalingModel
from rescale_model.scale_schedule import ScaleSchedule
from rescale_model.vqgan_model import VQGANModel
from rescale_model.vqir_model import VQIRModel, VQIRRefineModel

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "options.md"

# In this order: the first file that explains an option speaks for all.
FILES = [
    ROOT / "options" / name
    for name in (
        "train/aidn.yml",
        "train/vqgan.yml",
        "train/vqir16_stage1.yml",
        "train/vqir16_stage2.yml",
        "train/aidn_plus.yml",
        "test/aidn.yml",
        "test/vqir16.yml",
        "test/benchmark.yml",
    )
]

MODELS = (RescalingModel, AIDNModel, VQGANModel, VQIRModel, VQIRRefineModel)

# What is explained nowhere else, or only in a place whose neighbours are needed to understand it.
MEANINGS = {
    "datasets": "`train`, `val` (`val_1`, ..); in tests `test` (`test_1`, ..)",
    "dist_params": "`port` of the first node, with `--launcher slurm`",
    "find_unused_parameters": "true: distributed training of networks that leave parameters unused",
    "logger": "see below",
    "model_type": "the model; see below",
    "name": "results go to `experiments/<name>`, in tests to `results/<name>`",
    "network_d": "discriminator of VQGAN and VQIR's stage 2, as BasicSR's `UNetDiscriminatorSN`",
    "network_g": "the network; see below",
    "num_gpu": "number of GPUs; `auto`: a GPU where there is one, with a launcher all; 0: the CPU",
    "path": "see below",
    "scale": "not used by this project's networks; BasicSR copies it into every data set",
    "train": "see below",
    "val": "see below; without it nothing is validated",
    "path: ignore_resume_networks": "networks that resuming does not load, as `network_d`",
    "path: param_key_d": "entry of the discriminator's file",
    "path: param_key_g": "entry of the file: `params`; `params_ema` where there is an average",
    "path: param_key_small": "the same, of `pretrain_network_small`",
    "path: param_key_vqgan": "the same, of the VQGAN's file",
    "path: pretrain_network_g": "weights to start from, or to test: .pth, .pth.tar, .safetensors",
    "path: pretrain_network_vqgan": "VQIR, stage 1: the VQGAN to start from",
    "path: resume_state": "a .state file to go on from; `--auto_resume` finds the newest",
    "path: strict_load_d": "false: takes what fits of the discriminator's file",
    "train: code_opt": "loss of VQIR's stage 1: codes recovered from the LR image",
    "train: codebook_opt": "loss of VQGAN: features and their codes",
    "train: edge_opt": "loss of VQIR's stage 2: edges of its three images",
    "train: gan_opt": "loss of VQGAN and of VQIR's stage 2: the discriminator's",
    "train: gram_opt": "loss of VQIR's stage 1: Gram matrices of the recovered codes",
    "train: guide_opt": "loss of the LR image before rounding, against bicubic",
    "train: percep_opt": "loss of VQGAN and of VQIR's stage 2: perceptual; may be left out",
    "train: pixel_opt": "loss of the restored image",
    "train: optim_d": "optimiser of the discriminator, as `optim_g`",
    "train: optim_g": "optimiser: `type`, any of `torch.optim`, `lr` and its other keywords",
    "train: scheduler": "learning rate; see below",
    "train: total_iter": "iterations of training",
    "val: lr_format": "`png` or `jpeg` (4:2:0): the LR image goes through a real file",
    "val: lr_quality": "of the JPEG, 1 to 100",
    "val: metrics": "name: `type` and its keywords; see below",
    "val: tile": "side of the tiles that images are taken in; by default they are taken whole",
    "val: protocol": "`8bit`; `float`: restored images and bicubic references are not rounded",
    "logger: print_freq": "iterations from line to line of the log",
    "logger: save_checkpoint_freq": "iterations from checkpoint to checkpoint",
    "logger: use_tb_logger": "true: curves for TensorBoard in `tb_logger`",
    "logger: wandb": "Weights & Biases, which needs `use_tb_logger`",
    "logger: wandb: project": "name of the project; ~: none",
    "logger: wandb: resume_id": "the run to go on with",
    "datasets: batch_size_per_gpu": "images for each GPU (`train`)",
    "datasets: name": "names logs and folders",
    "datasets: type": "`HRImageDataset`, or `BenchmarkDataset` for `BenchmarkModel`",
    "datasets: num_prefetch_queue": "batches ahead, with `prefetch_mode: cpu`",
    "datasets: persistent_workers": (
        "true: reading processes outlive an epoch; the default, but for `prefetch_mode: cpu`"
    ),
    "datasets: phase": "set by BasicSR",
    "datasets: pin_memory": "true: batches are pinned, for copies to a GPU; the default with one",
    "datasets: prefetch_mode": "`cpu`, `cuda` (needs `pin_memory`), or ~",
    "datasets: scale": "unused",
    "datasets: use_hflip": "true: half of the crops are flipped from left to right",
    "datasets: use_rot": "true: half of the crops are flipped upside down, half are transposed",
    "datasets: mod_crop": "pictures are cropped to sides that are multiples of it (`val`, `test`)",
    "datasets: use_shuffle": "unused: training always shuffles",
}

_LINE = re.compile(r"(?P<indent>\s*)(?P<key>\w+):\s*(?P<rest>.*)")
_COMMENT = re.compile(r"(?:^|\s)#\s+(.*)")


def comments() -> dict[str, tuple[str, str]]:
    """Option, as ``train: ema_decay`` -> its meaning (or ''), and its value."""
    found: dict[str, tuple[str, str]] = {}
    for path in FILES:
        stack: list[tuple[int, str]] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            match = _LINE.fullmatch(line)
            if match is None or line.lstrip().startswith("#"):
                continue
            indent = len(match["indent"])
            while stack and stack[-1][0] >= indent:
                stack.pop()
            stack.append((indent, match["key"]))
            keys = [key for _, key in stack]
            if keys[0] == "datasets":
                keys = [keys[0], *keys[2:]]
            comment = _COMMENT.search(match["rest"])
            value = _COMMENT.sub("", match["rest"]).strip()
            name = ": ".join(keys)
            if name not in found or (comment and not found[name][0]):
                found[name] = comment[1] if comment else "", value
    return found


def told_by(*models: type) -> dict[str, str]:
    """Option, as ``train: ema_decay`` -> its meaning, from the docstrings of the models."""
    found: dict[str, str] = {}
    for model in models:
        options: list[str] = []
        for line in inspect.cleandoc(model.__doc__ or "").splitlines():
            match = re.fullmatch(r"\s+(``.*``) -- (.*)", line)
            if match:
                names = [name.removesuffix(": true") for name in re.findall("``(.*?)``", match[1])]
                options = [name for name in names if name not in found]
                found |= dict.fromkeys(options, match[2])
            elif not line.strip():
                options = []
            else:
                found |= {name: f"{found[name]} {line.strip()}" for name in options}
    return {name: _markdown(text.rstrip(";.")) for name, text in found.items()}


def arguments(target: Any) -> Iterator[tuple[str, str, str]]:
    """Keyword, default and meaning of what ``target`` takes, by its signature and docstring."""
    meanings = described(target, "Args:")
    for name, parameter in inspect.signature(target).parameters.items():
        default = parameter.default
        shown = "needed" if default is parameter.empty else _shown(default)
        yield name, shown, meanings.get(name, "")


def described(target: Any, heading: str) -> dict[str, str]:
    """The entries of a section of a docstring: name -> text, in one line."""
    lines = inspect.cleandoc(target.__doc__ or "").splitlines()
    if heading not in lines:
        return {}
    entries: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index(heading) + 1 :]:
        if line and not line.startswith(" "):
            break
        match = re.fullmatch(r" {4}(\w[\w, ]*): (.*)", line)
        if match:
            names = match[1].split(", ")
            entries |= dict.fromkeys(names, match[2])
        elif line.strip():
            entries |= {name: f"{entries[name]} {line.strip()}" for name in names}
    return {name: _markdown(text) for name, text in entries.items()}


def reference() -> str:
    """The whole page."""
    explained = comments()
    told = told_by(*MODELS)
    told_by_benchmark = told | told_by(BenchmarkModel)
    parts = [
        "# Options",
        "",
        "Written by `python docs/generate_options.py` from the schema that option files are",
        "checked against, from their comments and from docstrings: edit those. Examples are the",
        "values of the first option file that has the option.",
        "",
        *_section("Top level", "", SECTIONS[""], explained, told),
        *_dataset(HRImageDataset, explained),
        *_dataset(BenchmarkDataset, explained),
    ]
    parts += ["## `model_type`", "", "| model | |", "|---|---|"]
    parts += [
        f"| `{model.__name__}` | {_summary(model)} |" for model in (*MODELS[1:], BenchmarkModel)
    ]
    parts.append("")
    for cls in (AIDN, VQGAN, VQIR):
        parts += _signature(f"`network_g` of type `{cls.__name__}`", cls)
    for name in ("path", "train"):
        parts += _section(f"`{name}`", f"{name}: ", SECTIONS[name], explained, told)
    parts += _signature("`train: scales`", ScaleSchedule, skipped=("seed",))
    parts += ["## `train: scheduler`", "", *_lists(SCHEDULERS, ("optimizer", "last_epoch"))]
    for loss in (CodeBookLoss, EdgeLoss, GramLoss, LPIPSLoss):
        parts += _signature(f"Loss `{loss.__name__}`", loss)
    ours = {"CodeBookLoss", "EdgeLoss", "GramLoss", "LPIPSLoss"}
    losses = {name: loss for name, loss in LOSS_REGISTRY if name not in ours}
    parts += ["## BasicSR's losses", "", *_lists(losses)]
    parts += _section("`val`", "val: ", SECTIONS["val"], explained, told)
    name = "val of BenchmarkModel"
    parts += _section(
        "`val` of `BenchmarkModel`", "val: ", SECTIONS[name], explained, told_by_benchmark
    )
    parts += [
        "## `val: metrics`",
        "",
        "Beside the keywords below, every metric has `image`, which of the images is judged,",
        "`better`, `higher` or `lower` (default: what the metric means), and `protocol`, in place",
        "of that of `val`. `crop_border` is the model's unless given. A metric of a plugin is",
        "called with `img`, and with `img2` (the reference), `crop_border` and `better` if it has",
        "them; without `crop_border`, it gets images without their border.",
        "",
        *_lists(
            {name: metric for name, metric in METRIC_REGISTRY},
            ("img", "img2", "crop_border"),
            METRIC_EXTRAS,
        ),
    ]
    parts += _section("`logger`", "logger: ", SECTIONS["logger"], explained, told)
    parts += _section(
        "`logger: wandb`", "logger: wandb: ", SECTIONS["logger: wandb"], explained, told
    )
    return "\n".join(parts).rstrip() + "\n"


def _section(
    title: str,
    prefix: str,
    keys: Iterable[str],
    explained: Mapping[str, tuple[str, str]],
    told: Mapping[str, str],
) -> list[str]:
    rows = []
    for key in sorted(keys):
        name = prefix + key
        comment, value = explained.get(name, ("", ""))
        meaning = MEANINGS.get(name) or told.get(name) or _markdown(comment)
        if not meaning:
            raise ValueError(
                f"option {name} is explained nowhere: in no option file, nor in MEANINGS"
            )
        example = f"`{value}`" if value and "{" not in value else ""
        rows.append(f"| `{key}` | {example} | {meaning} |")
    return [f"## {title}", "", "| option | example | meaning |", "|---|---|---|", *rows, ""]


def _dataset(cls: Any, explained: Mapping[str, tuple[str, str]]) -> list[str]:
    told = {f"datasets: {key}": text for key, text in described(cls, "Options:").items()}
    return _section(
        f"`datasets` of type `{cls.__name__}`", "datasets: ", cls.OPTIONS, explained, told
    )


def _signature(title: str, target: Any, skipped: Iterable[str] = ()) -> list[str]:
    rows = [
        f"| `{name}` | {default} | {meaning} |"
        for name, default, meaning in arguments(target)
        if name not in skipped
    ]
    table = ["| option | default | meaning |", "|---|---|---|", *rows]
    return [f"## {title}", "", _summary(target), "", *table, ""]


def _lists(
    targets: Mapping[str, Any], supplied: Iterable[str] = (), extras: Iterable[str] = ()
) -> list[str]:
    rows = []
    for name, target in sorted(targets.items()):
        shown = ", ".join(
            f"`{key}`" + (" (needed)" if default == "needed" else f" = {default}")
            for key, default, _ in arguments(target)
            if key not in {*supplied, *extras, "kwargs"}
        )
        rows.append(f"| `{name.removesuffix('_basicsr')}` | {shown} |")
    return ["| type | keywords |", "|---|---|", *rows, ""]


def _summary(target: Any) -> str:
    paragraph = inspect.cleandoc(target.__doc__ or "").partition("\n\n")[0]
    return _markdown(" ".join(paragraph.split()))


def _shown(value: Any) -> str:
    text = "~" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{text}`"


def _markdown(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text.replace("``", "`"))
    parts = text.replace("|", "\\|").rstrip(".").split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]  # what is no code
    return "`".join(parts)


def main() -> int:
    """Writes the page."""
    write_file(PAGE, reference().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
