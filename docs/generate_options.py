"""Writes docs/options.md from what models, data sets, networks, losses and metrics declare.

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

from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
)
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import rescale_model  # noqa: F401  registers
from rescale_data.image_file import write_file
from rescale_data.option_problems import described, of_field
from rescale_data.option_schema import alternatives, declared, is_section, own_options
from rescale_model.evaluation.validation import MetricOptions
from rescale_model.models.base import RescalingModel
from rescale_model.models.base_options import FileOptions
from rescale_model.option_types import SCHEDULERS, TypedKeywords
from rescale_model.signature_options import Keywords, from_signature
from rescale_model.training.random_jpeg import RandomJPEG
from rescale_model.training.scale_schedule import ScaleSchedule

_ALL = RescalingModel.OPTIONS
PAGE = Path(__file__).resolve().parent / "options.md"
INTRODUCTION = """\
# Options

Written by `python docs/generate_options.py` from what the classes declare: edit the declarations.

Each model and data set has the options of its own tables beside those of all. An option file is
checked before anything starts: options that are unknown, that belong to another model, or whose
values do not fit, are reported. An option that is `~` counts as left out.
"""
METRICS = """\
Beside its own keywords every metric has these. A metric of a plugin is called with `img`, and with
`img2` (the reference), `crop_border` and `better` if it has them; without `crop_border`, it gets
images without their border.
"""


def reference() -> str:
    """The whole page."""
    parts = [INTRODUCTION, *_sections("", _ALL)]
    for name, cls in _ours(DATASET_REGISTRY):
        parts += _table(f"`datasets` of type `{name}`", declared(cls.OPTIONS), _summary(cls))
    for name, cls in _ours(MODEL_REGISTRY):
        base = _ALL if issubclass(cls, RescalingModel) else FileOptions
        own = {": ".join(place): field for place, field in own_options(cls.OPTIONS, base)}
        parts += _table(f"`model_type: {name}`", own, _summary(cls))
    for name, cls in _ours(ARCH_REGISTRY):
        parts += _table(f"`network_g` of type `{name}`", _keywords(cls), _summary(cls))
    schedule = _keywords(ScaleSchedule, ("seed",))
    parts += _table("`train: scales` of `AIDNModel`", schedule, _summary(ScaleSchedule))
    jpeg = _keywords(RandomJPEG, ("seed",))
    parts += _table("`train: jpeg` of `AIDNModel`", jpeg, _summary(RandomJPEG))
    parts += ["## `train: scheduler`", "", *_lists(SCHEDULERS, ("optimizer", "last_epoch"))]
    losses = dict(_ours(LOSS_REGISTRY))
    for name, cls in losses.items():
        parts += _table(f"Loss `{name}`", _keywords(cls), _summary(cls))
    others = {name: loss for name, loss in LOSS_REGISTRY if name not in losses}
    parts += ["## BasicSR's losses", "", *_lists(others)]
    shared = {key: field for key, field in declared(MetricOptions).items() if key != "type"}
    parts += _table("`val: metrics`", shared, METRICS.strip())
    parts += _lists(dict(iter(METRIC_REGISTRY)), ("img", "img2", *shared))
    return "\n".join(parts).rstrip() + "\n"


def _ours(registry: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """What this project has registered, in the order of registration."""
    for name, target in registry:
        if target.__module__.startswith("rescale_"):
            yield name, target


def _sections(name: str, schema: type[BaseModel]) -> list[str]:
    """A table for a section, then one for each section in it."""
    parts = _table(f"`{name}`" if name else "Top level", declared(schema))
    for key, field in declared(schema).items():
        section = alternatives(field.annotation)[0]
        if is_section(section):
            parts += _sections(f"{name}: {key}" if name else key, section)
    return parts


def _keywords(target: Any, supplied: tuple[str, ...] = ()) -> dict[str, FieldInfo]:
    base = Keywords if supplied else TypedKeywords
    fields = declared(from_signature(target, supplied, base=base))
    return {key: field for key, field in fields.items() if key != "type"}


def _table(title: str, fields: Mapping[str, FieldInfo], text: str = "") -> list[str]:
    rows = []
    for name, field in fields.items():
        kind = described(of_field(field))
        meaning = _markdown(field.description or "")
        rows.append(f"| `{name}` | {kind} | {_default(field)} | {meaning} |")
    head = ["| option | type | default | meaning |", "|---|---|---|---|"]
    return [f"## {title}", "", *([text, ""] if text else []), *([*head, *rows, ""] if rows else [])]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    return "" if field.default is None else _shown(field.default)


def _lists(targets: Mapping[str, Any], supplied: Iterable[str] = ()) -> list[str]:
    rows = []
    for name, target in sorted(targets.items()):
        shown = ", ".join(
            f"`{key}` (needed)" if field.is_required() else f"`{key}` = {_shown(field.default)}"
            for key, field in declared(from_signature(target)).items()
            if key not in supplied
        )
        rows.append(f"| `{name.removesuffix('_basicsr')}` | {shown} |")
    return ["| type | keywords |", "|---|---|", *rows, ""]


def _summary(target: Any) -> str:
    paragraph = inspect.cleandoc(target.__doc__ or "").partition("\n\n")[0]
    return _markdown(" ".join(paragraph.split())) + "."


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
