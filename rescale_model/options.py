"""Validation of option files before a run starts.

BasicSR reads options with ``get``, so a misspelled option is silently ignored. Here, an option file
is loaded safely (BasicSR's loader executes code that a file contains), and all problems are
reported at once. Valid options are declared by the registered classes: by models and datasets as
``OPTIONS``, by networks, losses and metrics as keyword arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import yaml
from basicsr.utils.options import _postprocess_yml_value
from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY
from pydantic import BaseModel, ValidationError

from rescale_data.option_problems import problems
from rescale_data.option_schema import FileCheck, alternatives, declared, is_section
from rescale_model.option_types import find


class _Loader(yaml.SafeLoader):
    """A safe loader that reads ``!!python/name:`` tags, as of the plugin, as strings."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda _, name, __: name)


def read_options(path: str) -> dict[str, Any]:
    """Reads an option file without executing code that it contains.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a YAML mapping.
    """
    with open(path, encoding="utf-8") as file:
        try:
            options = yaml.load(file, Loader=_Loader)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an invalid date
            raise RescaleError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(options, dict):
        raise RescaleError(f"{path}: not an option file: its top level is not a mapping")
    return options


def check_options(path: str, *, is_train: bool, forced: Sequence[str] = ()) -> None:
    """Checks an option file, if its model declares its options.

    Args:
        path: the file.
        is_train: whether it is for training or for testing.
        forced: arguments of ``--force_yml``, which replace options: ``train:ema_decay=0.999``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: lists all problems.
    """
    options = read_options(path)
    lines = [*_force(options, forced), *_problems(options, is_train)]
    if lines:
        raise RescaleError(f"{path}: {'; '.join(lines)}")


def _force(options: dict[str, Any], forced: Iterable[str]) -> Iterator[str]:
    """Applies ``--force_yml`` like BasicSR, and yields problems."""
    for entry in forced:
        keys, equals, value = entry.partition("=")
        *sections, key = (part.strip() for part in keys.split(":"))
        section: Any = options
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if not equals or "=" in value:
            yield f"--force_yml {entry}: expected, for example, train:ema_decay=0.999"
        elif not isinstance(section, dict):
            yield f"--force_yml {entry}: there is no section {':'.join(sections)}"
        else:
            try:
                section[key] = _postprocess_yml_value(value.strip())
            except (NameError, SyntaxError, TypeError, ValueError) as error:
                yield f"--force_yml {entry}: {error}"


def _problems(options: dict[str, Any], is_train: bool) -> list[str]:
    try:
        model = find(MODEL_REGISTRY, options.get("model_type"))
    except ValueError as error:
        return [f"model_{error}"]
    schema: type[BaseModel] | None = getattr(model, "OPTIONS", None)
    if schema is None:
        return []
    try:
        schema.model_validate(options, context=FileCheck(is_train))
    except ValidationError as error:
        return problems(error, schema, options, lambda place: _misplaced(place, options))
    return []


def _misplaced(place: tuple[int | str, ...], options: dict[str, Any]) -> str:
    """Names the models or datasets that an unknown option belongs to; empty if none."""
    registry, here, within = MODEL_REGISTRY, options["model_type"], place
    if place[0] == "datasets" and len(place) > 2:
        here, within = options["datasets"][place[1]]["type"], place[2:]
        registry = DATASET_REGISTRY
    owners = [
        name
        for name, cls in registry
        if (schema := getattr(cls, "OPTIONS", None)) and _has(schema, within)
    ]
    return f"is an option of {_listed(owners)}, not of {here}" if owners else ""


def _has(schema: type[BaseModel], place: tuple[int | str, ...]) -> bool:
    field = declared(schema).get(str(place[0]))
    if field is None or len(place) == 1:
        return field is not None
    section = alternatives(field.annotation)[0]
    return is_section(section) and _has(section, place[1:])


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
