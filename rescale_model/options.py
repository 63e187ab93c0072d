"""Checking option files before anything starts.

BasicSR reads keys with ``get`` and so takes a misspelt one for an absent one. Here an option file
is read safely (BasicSR itself trusts it and would run what it asks for), and all that is wrong with
it is told at once.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import rescale_compat  # noqa: F401  first: it lets basicsr import

import yaml
from basicsr.models import lr_scheduler
from basicsr.utils.options import _postprocess_yml_value
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)

from rescale_arch import scale_pair
from rescale_data.hr_dataset import HRImageDataset
from rescale_model.aidn_model import read_guide_weights
from rescale_model.benchmark_model import BenchmarkModel, read_plan
from rescale_model.evaluation import Evaluation
from rescale_model.rescaling_model import PRECISIONS, RescalingModel, optimizer_class
from rescale_model.scale_schedule import ScaleSchedule

_TOP = {
    "name", "model_type", "plugin", "scale", "num_gpu", "manual_seed", "datasets", "path", "train",
    "val", "logger", "dist_params", "find_unused_parameters", "sync_bn", "network_g",
    "network_d", "color_order",
}  # fmt: skip
_PATH = {
    "strict_load_g", "param_key_g", "pretrain_network_g", "resume_state", "ignore_resume_networks",
    "strict_load_d", "param_key_d", "pretrain_network_d", "param_key_vqgan",
    "pretrain_network_vqgan", "param_key_small", "pretrain_network_small",
}  # fmt: skip
_TRAIN = {
    "ema_decay", "optim_g", "scheduler", "total_iter", "warmup_iter", "precision", "scales",
    "pixel_opt", "guide_opt", "guide_weights", "percep_opt", "codebook_opt", "gan_opt", "optim_d",
    "gan_start", "adaptive_weight", "revive_codes", "code_opt", "gram_opt", "edge_opt",
    "skip_non_finite", "compile",
}  # fmt: skip
_VAL = {
    "val_freq", "save_img", "pbar", "suffix", "scales", "metrics", "protocol", "precision",
    "lr_format", "lr_quality", "lr_folder", "tile",
}  # fmt: skip
_BENCHMARK_VAL = {
    "save_img", "pbar", "suffix", "scales", "metrics", "protocol", "weights", "lr_files",
    "cost_size",
}  # fmt: skip
_LOGGER = {"print_freq", "save_checkpoint_freq", "use_tb_logger", "wandb"}
_WANDB = {"project", "resume_id"}
METRIC_EXTRAS = {"image", "better", "protocol", "crop_border"}
SCHEDULERS = {  # BasicSR's names for them
    "MultiStepLR": lr_scheduler.MultiStepRestartLR,
    "MultiStepRestartLR": lr_scheduler.MultiStepRestartLR,
    "CosineAnnealingRestartLR": lr_scheduler.CosineAnnealingRestartLR,
}
SECTIONS = {
    "": _TOP, "path": _PATH, "train": _TRAIN, "val": _VAL, "logger": _LOGGER,
    "logger: wandb": _WANDB, "val of BenchmarkModel": _BENCHMARK_VAL,
}  # fmt: skip
"""The keys that each section of an option file of this project's models may have."""
_SWITCHES = {
    "": ["sync_bn", "find_unused_parameters"],
    "train": ["adaptive_weight", "skip_non_finite", "compile"],
    "val": ["save_img", "pbar"],
    "logger": ["use_tb_logger"],
    "path": ["strict_load_g", "strict_load_d"],
}
_NUMBERS = {  # with the least value
    "": {"manual_seed": 0},
    "train": {"ema_decay": 0, "warmup_iter": -1, "gan_start": 0, "revive_codes": 0},
    "val": {"tile": 1},
}
_OURS = (RescalingModel, BenchmarkModel)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


class _Loader(yaml.SafeLoader):
    """Safe: a ``!!python/name:`` line, as of the plugin, is read as text."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda _, name, __: name)


def read_options(path: str) -> dict[str, Any]:
    """Reads an option file without running anything that it asks for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no YAML mapping.
    """
    with open(path, encoding="utf-8") as file:
        try:
            options = yaml.load(file, Loader=_Loader)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a 13th month
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path}: no option file, its top level is not a mapping")
    return options


def check_options(path: str, *, is_train: bool, forced: Sequence[str] = ()) -> None:
    """Checks an option file of one of this project's models.

    Args:
        path: the file.
        is_train: whether it is for training or for testing.
        forced: what ``--force_yml`` puts in place of the file's: ``train:ema_decay=0.999``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: lists everything that is wrong.
    """
    options = read_options(path)
    problems = [*_force(options, forced), *_problems(options, is_train)]
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")


def _force(options: dict[str, Any], forced: Iterable[str]) -> Iterator[str]:
    """Sets what ``--force_yml`` says, as BasicSR will."""
    for entry in forced:
        keys, equals, value = entry.partition("=")
        *sections, key = (part.strip() for part in keys.split(":"))
        section: Any = options
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if not equals or "=" in value:
            yield f"--force_yml {entry}: train:ema_decay=0.999 is an example of what is needed"
        elif not isinstance(section, dict):
            yield f"--force_yml {entry}: there is no section {':'.join(sections)}"
        else:
            try:
                section[key] = _postprocess_yml_value(value.strip())
            except (NameError, SyntaxError, TypeError, ValueError) as error:
                yield f"--force_yml {entry}: {error}"


def _problems(options: dict[str, Any], is_train: bool) -> Iterator[str]:
    model = options.get("model_type")
    required = ["name", "model_type", "num_gpu", "datasets", "path"]
    required += [] if model == BenchmarkModel.__name__ else ["network_g"]
    required += ["train", "logger"] if is_train else ["val"]
    yield from _missing("", options, required)
    if not _is_in(MODEL_REGISTRY, model):
        ours = [name for name, cls in MODEL_REGISTRY if issubclass(cls, _OURS)]
        yield f"model_type {model!r} is unknown{_nearest(model, ours)}"
        return
    if not issubclass(MODEL_REGISTRY.get(model), _OURS):
        return  # a model of BasicSR or of another plugin, whose options are not known here
    if "name" in options and not isinstance(options["name"], str):
        yield f"name is {options['name']!r}: text is needed"
    gpus = options.get("num_gpu", 0)
    if gpus != "auto" and not _is_number(gpus, 0):
        yield f"num_gpu is {gpus!r}: a number or auto is needed"
    for section in _SWITCHES:
        given = options.get(section) if section else options
        if isinstance(given, dict):
            yield from _simple_problems(section, given)
    if model == BenchmarkModel.__name__:
        yield from _benchmark_problems(options, is_train)
        return
    networks = {key for key in options if str(key).startswith("network_")}
    yield from _unknown("", options, _TOP | networks)
    for key in sorted(networks):
        yield from _arguments(f"{key}: ", options[key], ARCH_REGISTRY)
    if "datasets" in options:
        yield from _datasets_problems(options["datasets"], is_train)
    if "path" in options:
        yield from _path_problems(options["path"], is_train)
    if is_train and "train" in options:
        yield from _train_problems(options["train"])
    if options.get("val") is not None or (not is_train and "val" in options):
        yield from _val_problems(options["val"], is_train)
    if options.get("logger") is not None or (is_train and "logger" in options):
        yield from _logger_problems(options["logger"], is_train)


def _benchmark_problems(options: dict[str, Any], is_train: bool) -> Iterator[str]:
    if is_train:
        yield "model_type: BenchmarkModel is for testing"
        return
    yield from _unknown("", options, _TOP - {"train", "logger", "network_g", "network_d"})
    if "datasets" in options:
        yield from _datasets_problems(options["datasets"], is_train)
    val = options.get("val")
    wrong = [
        *_unknown("path: ", options.get("path"), ()),
        *_unknown("val: ", val, _BENCHMARK_VAL),
        *_missing("val: ", val, ["save_img"]),
        *(_metrics_problems(val.get("metrics")) if isinstance(val, dict) else ()),
    ]
    yield from wrong
    if not wrong:
        assert isinstance(val, dict)
        try:
            read_plan(val)
        except ValueError as error:
            yield str(error).removeprefix("option ")


def _datasets_problems(datasets: Any, is_train: bool) -> Iterator[str]:
    if not isinstance(datasets, dict):
        yield "datasets is not a mapping"
        return
    if is_train:
        yield from _missing("datasets: ", datasets, ["train"])
    valid = "train, val, val_1, .." if is_train else "test, test_1, .."
    for name, dataset in datasets.items():
        where = f"datasets: {name}"
        phase = str(name).partition("_")[0]
        if not (name == "train" or phase == "val" if is_train else phase in ("test", "val")):
            yield f"{where}: valid names are {valid}"
        if not isinstance(dataset, dict):
            yield f"{where} is not a mapping"
        else:
            yield from _dataset_problems(f"{where}: ", dataset, is_train and name == "train")


def _dataset_problems(where: str, dataset: dict[Any, Any], trains: bool) -> Iterator[str]:
    yield from _missing(where, dataset, ["name"])
    if not isinstance(dataset.get("name", ""), str):
        yield f"{where}name is {dataset['name']!r}: text is needed, in quotation marks"
    kind = dataset.get("type")
    if not _is_in(DATASET_REGISTRY, kind):
        yield f"{where}type {kind!r} is unknown{_nearest(kind, DATASET_REGISTRY.keys())}"
        return
    if trains:
        yield from _numbers(where, dataset, {"batch_size_per_gpu": 1, "num_worker_per_gpu": 0})
    cls = DATASET_REGISTRY.get(kind)
    known = getattr(cls, "OPTIONS", None)
    if known is not None:
        yield from _unknown(where, dataset, known)
    if issubclass(cls, HRImageDataset):
        rest = {key: value for key, value in dataset.items() if key in cls.OPTIONS}
        for problem in cls.option_problems(rest | {"phase": "train" if trains else "val"}):
            yield f"{where}{problem}"
    modes = (None, "cpu", "cuda")
    if dataset.get("prefetch_mode") not in modes:
        yield f"{where}prefetch_mode is {dataset['prefetch_mode']!r}: valid are cpu, cuda"
    for key in ("dataroot_gt", "meta_info_file"):
        yield from _missing_path(where + key, dataset.get(key))
    root = dataset.get("dataroot_gt")
    if isinstance(root, str) and root.endswith(".lmdb") and os.path.isdir(root):
        for file in ("data.mdb", "meta_info.txt"):
            yield from _missing_path(f"{where}dataroot_gt", os.path.join(root, file))


def _path_problems(path: Any, is_train: bool) -> Iterator[str]:
    yield from _unknown("path: ", path, _PATH)
    if not isinstance(path, dict):
        return
    for key in sorted(key for key in _PATH if key.startswith(("pretrain_", "resume_"))):
        yield from _missing_path(f"path: {key}", path.get(key))
    if not is_train and not path.get("pretrain_network_g"):
        yield "path: pretrain_network_g is missing: the weights to test"


def _train_problems(train: Any) -> Iterator[str]:
    yield from _unknown("train: ", train, _TRAIN)
    if not isinstance(train, dict):
        return
    yield from _numbers("train: ", train, {"total_iter": 1})
    if train.get("precision", "fp32") not in PRECISIONS:
        yield f"train: precision is {train['precision']!r}: valid are {', '.join(PRECISIONS)}"
    yield from _missing("train: ", train, ["optim_g", "scheduler"])
    for key in ("optim_g", "optim_d"):
        if train.get(key) is not None or (key == "optim_g" and key in train):
            yield from _optimizer_problems(f"train: {key}: ", train[key])
    if "scheduler" in train:
        where = "train: scheduler: "
        yield from _arguments(where, train["scheduler"], SCHEDULERS, {"optimizer", "last_epoch"})
    for key in sorted(key for key in _TRAIN & train.keys() if key.endswith("_opt")):
        if train[key] is not None or key in ("pixel_opt", "guide_opt"):
            yield from _arguments(f"train: {key}: ", train[key], LOSS_REGISTRY)
    try:
        read_guide_weights(train.get("guide_weights"))
    except ValueError as error:
        yield str(error).removeprefix("option ")
    scales = train.get("scales")
    if scales is not None:
        known = _keywords(ScaleSchedule).keys() - {"seed"}
        unknown = list(_unknown("train: scales: ", scales, known))
        yield from unknown
        if not unknown:
            try:
                ScaleSchedule(**scales)
            except (TypeError, ValueError) as error:
                yield f"train: scales: {error}"
    yield from _text_numbers("train", train)


def _optimizer_problems(where: str, given: Any) -> Iterator[str]:
    if not isinstance(given, dict):
        yield f"{where.rstrip(': ')} is not a mapping"
        return
    try:
        known = {str(given.get("type")): optimizer_class(str(given.get("type")))}
    except ValueError as error:
        yield f"{where}{error}"
        return
    yield from _missing(where, given, ["lr"])
    yield from _arguments(where, given, known, {"params"})


def _val_problems(val: Any, is_train: bool) -> Iterator[str]:
    yield from _unknown("val: ", val, _VAL)
    if not isinstance(val, dict):
        return
    yield from _missing("val: ", val, ["save_img"])
    if is_train:
        yield from _numbers("val: ", val, {"val_freq": 1})
    wrong_metrics = list(_metrics_problems(val.get("metrics")))
    yield from wrong_metrics
    if not wrong_metrics:
        try:
            Evaluation(val)
        except ValueError as error:
            yield str(error).removeprefix("option ")
    scales = val.get("scales")
    if not isinstance(scales, list | None):
        yield f"val: scales is {scales!r}: a list such as [1.5, 2.5, 3.5] is needed"
        return
    for scale in scales or ():
        try:
            scale_pair(scale)
        except (TypeError, ValueError) as error:
            yield f"val: scales: {error}"


def _metrics_problems(metrics: Any) -> Iterator[str]:
    if metrics is None:
        return
    if not isinstance(metrics, dict):
        yield "val: metrics is not a mapping"
        return
    for name, metric in metrics.items():
        where = f"val: metrics: {name}: "
        # what is judged and the border come from the evaluation
        given = metric if not isinstance(metric, dict) else {"crop_border": 0, **metric}
        yield from _arguments(where, given, METRIC_REGISTRY, {"img", "img2"}, METRIC_EXTRAS)


def _logger_problems(logger: Any, is_train: bool) -> Iterator[str]:
    yield from _unknown("logger: ", logger, _LOGGER)
    if not isinstance(logger, dict):
        return
    if is_train:
        yield from _numbers("logger: ", logger, {"print_freq": 1, "save_checkpoint_freq": 1})
        yield from _missing("logger: ", logger, ["use_tb_logger"])
    if logger.get("wandb") is not None:
        yield from _unknown("logger: wandb: ", logger["wandb"], _WANDB)


def _arguments(
    where: str,
    given: Any,
    registry: Registry | dict[str, Any],
    supplied: Container[str] = (),
    extras: Iterable[str] = (),
) -> Iterator[str]:
    """Checks ``type`` against a registry and the other keys against the keywords of that type.

    ``supplied`` keywords are the program's business; ``extras`` are allowed beside the keywords.
    """
    if not isinstance(given, dict):
        yield f"{where.rstrip(': ')} is not a mapping"
        return
    name: Any = given.get("type")
    if not _is_in(registry, name):
        yield f"{where}type {name!r} is unknown{_nearest(name, registry.keys())}"
        return
    keywords = {
        key: needed for key, needed in _keywords(registry.get(name)).items() if key not in supplied
    }
    yield from _missing(where, given, [key for key, needed in keywords.items() if needed])
    yield from _unknown(where, given, {"type", *keywords, *extras})
    yield from _type_problems(where, given, registry.get(name))


def _type_problems(where: str, given: dict[Any, Any], target: Any) -> Iterator[str]:
    """Compares values with the defaults that ``target`` has for them."""
    for key, parameter in inspect.signature(target).parameters.items():
        value, default = given.get(key, parameter.default), parameter.default
        if _is_text_number(value):
            continue  # told elsewhere
        if isinstance(default, bool):
            fits, needed = isinstance(value, bool), "true or false"
        elif isinstance(default, int) and parameter.annotation in (int, "int"):
            fits, needed = _is_number(value) and isinstance(value, int), "a whole number"
        elif isinstance(default, int | float):
            fits, needed = _is_number(value), "a number"
        elif isinstance(default, str):
            fits, needed = isinstance(value, str), "text"
        elif isinstance(default, list | tuple):
            fits, needed = isinstance(value, list | tuple), "a list"
        else:
            continue
        if not fits:
            yield f"{where}{key} is {value!r}: {needed} is needed"


def _simple_problems(section: str, given: dict[Any, Any]) -> Iterator[str]:
    """Checks switches and numbers; None counts as left out."""
    where = f"{section}: " if section else ""
    for key in _SWITCHES[section]:
        if given.get(key) is not None and not isinstance(given[key], bool):
            yield f"{where}{key} is {given[key]!r}: true or false is needed"
    for key, least in _NUMBERS.get(section, {}).items():
        value = given.get(key)
        if value is not None and not _is_number(value, least) and not _is_text_number(value):
            yield f"{where}{key} is {value!r}: a number from {least} is needed"


def _keywords(target: Any) -> dict[str, bool]:
    """The keywords that ``target`` takes, and whether they are needed."""
    return {
        name: parameter.default is parameter.empty
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _missing(where: str, given: Any, needed: Iterable[str]) -> Iterator[str]:
    if isinstance(given, dict):
        yield from (f"{where}{key} is missing" for key in needed if key not in given)


def _unknown(where: str, given: Any, known: Iterable[str]) -> Iterator[str]:
    if not isinstance(given, dict):
        yield f"{where.rstrip(': ')} is not a mapping"
        return
    known = set(known)
    for key in given:
        if key not in known:
            text = key if str(key).strip() else repr(key)
            yield f"{where}{text} is unknown{_nearest(key, known)}"


def _numbers(where: str, given: dict[Any, Any], least: dict[str, int]) -> Iterator[str]:
    for key, minimum in least.items():
        if key not in given:
            yield f"{where}{key} is missing"
        elif not _is_number(given[key], minimum):
            yield f"{where}{key} is {given[key]!r}: a number from {minimum} is needed"


def _text_numbers(where: str, given: Any) -> Iterator[str]:
    """Numbers that YAML takes for text, as ``1e-4``."""
    if isinstance(given, dict | list):
        for key, value in given.items() if isinstance(given, dict) else enumerate(given):
            yield from _text_numbers(f"{where}: {key}", value)
    elif _is_text_number(given):
        yield f"{where} is text to YAML: write !!float {given}"


def _missing_path(where: str, path: Any) -> Iterator[str]:
    if not path:
        return
    if not isinstance(path, str):
        yield f"{where} is {path!r}: a path is needed"
    elif not os.path.exists(os.path.expanduser(path)):
        yield f"{where}: no such file or folder: {path}"


def _nearest(name: Any, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(str(name), sorted(known), n=1)
    return f" (nearest known: {match[0]})" if match else ""


def _is_in(registry: Registry | dict[str, Any], name: Any) -> bool:
    # BasicSR registers some classes of its own with a suffix, and finds them without it
    return isinstance(name, str) and (name in registry or f"{name}_basicsr" in registry)


def _is_number(value: Any, minimum: float = -math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= minimum


def _is_text_number(value: Any) -> bool:
    return isinstance(value, str) and _NUMBER.fullmatch(value) is not None
