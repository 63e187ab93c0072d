"""Problems with options as messages for users."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from rescale_compat.errors import RescaleError

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rescale_data.option_schema import Called, DeclaredBy, alternatives, declared, is_section

Schema = TypeVar("Schema", bound=BaseModel)
Misplaced = Callable[[tuple[int | str, ...]], str]
"""Location of an unknown option -> message about where it belongs; empty if nowhere."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_SIMPLE = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_BOUNDS: dict[type, tuple[str, str]] = {
    Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<"),
}  # fmt: skip


def validated(schema: type[Schema], given: Mapping[str, Any], where: str = "") -> Schema:
    """Validates the options of a section, and adds defaults.

    Args:
        schema: declaration of the section.
        given: the section.
        where: prefix of each message, such as ``option val: ``.

    Raises:
        ValueError: lists all problems.
    """
    try:
        return schema.model_validate(dict(given))
    except ValidationError as error:
        lines = problems(error, schema, given)
        raise RescaleError("; ".join(f"{where}{line}" for line in lines)) from None


def problems(
    error: ValidationError,
    schema: type[BaseModel],
    given: Any,
    misplaced: Misplaced = lambda _: "",
) -> list[str]:
    """A message for each problem with ``given``.

    Args:
        error: pydantic's error.
        schema: the declaration.
        given: the options that were validated.
        misplaced: see `Misplaced`.
    """
    lines = (_line(detail, _locate(schema, detail["loc"], given), misplaced) for detail in
             error.errors(include_url=False))  # fmt: skip
    return list(dict.fromkeys(lines))  # pydantic reports an error for each member of a union


def nearest(name: Any, known: Iterable[str]) -> str:
    """A hint at the known name most similar to ``name``; empty if there is none."""
    match = difflib.get_close_matches(str(name), sorted(known), n=1)
    return f" (nearest known: {match[0]})" if match else ""


def text_numbers(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yields numbers that YAML reads as strings, such as ``1e-4``, with their path in ``value``."""
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from text_numbers(entry, (*place, key))
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        yield place, value


def described(annotation: Any) -> str:
    """An annotation in words: ``an integer >= 1``."""
    plain, *metadata = get_args(annotation) if get_origin(annotation) is Annotated else [annotation]
    names = [entry.text for entry in metadata if isinstance(entry, Called)]
    if names:
        return names[-1]
    kinds = [_kind(kind) for kind in alternatives(plain) if kind is not NoneType]
    limits = [
        f"{sign} {getattr(entry, name)}"
        for bound, (name, sign) in _BOUNDS.items()
        for entry in _flat(metadata)
        if isinstance(entry, bound)
    ]
    return " ".join([_either(kinds), *[" and ".join(limits)] * bool(limits)])


def _either(kinds: Iterable[str]) -> str:
    *others, last = dict.fromkeys(kinds)
    return f"{', '.join(others)} or {last}" if others else last


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return described(annotation)
    if origin is Literal:
        return _either(map(str, get_args(annotation)))
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    if is_section(annotation) or dict in (annotation, origin):
        return "a mapping"
    if origin is tuple:
        return f"a list of {len(get_args(annotation))}"
    return "a list" if list in (annotation, origin) else "anything"


def of_field(field: FieldInfo) -> Any:
    """The annotation of a field, including its metadata."""
    entries = tuple(field.metadata)
    return Annotated[(field.annotation, *entries)] if entries else field.annotation


@dataclass
class _Place:
    """The location of a problem in an option file.

    Attributes:
        path: names of the sections and the option.
        section: declaration of the innermost section.
        annotation: annotation of the option; None if it is not declared.
        field: declaration of the option, or None for an element of an option.
    """

    path: list[str]
    section: type[BaseModel]
    annotation: Any
    field: FieldInfo | None = None


def _locate(schema: type[BaseModel], location: tuple[int | str, ...], given: Any) -> _Place:
    place = _Place([], schema, schema)
    for item in location:
        kinds = [_plain(kind) for kind in alternatives(_plain(place.annotation))]
        section = _section(place.annotation, given)
        mapping = next((kind for kind in kinds if get_origin(kind) is dict), None)
        if section is not None:
            place.section, place.field = section, declared(section).get(str(item))
            place.annotation = place.field and of_field(place.field)
        elif mapping is not None:
            place.annotation, place.field = get_args(mapping)[1], None
        elif isinstance(item, int) and isinstance(given, list | tuple):
            items = [arg for kind in kinds for arg in get_args(kind) if arg is not Ellipsis]
            place.annotation = items[min(item, len(items) - 1)] if items else Any
            place.field = None
        else:
            continue  # name of a union member in pydantic's location
        if item == "[key]":
            continue
        text = str(item)
        place.path.append(text if text.strip() else repr(text))
        given = _entry(given, item)
    return place


def _line(detail: ErrorDetails, place: _Place, misplaced: Misplaced) -> str:
    where, kind, value = ": ".join(place.path), detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "missing":
        return f"{where} is missing"
    if kind == "needed":
        return f"{where} {detail['msg']}"
    if kind in ("extra_forbidden", "invalid_key"):
        other = misplaced(detail["loc"])
        hint = nearest(place.path[-1], declared(place.section))
        return f"{where} {other}" if other else f"{where} is unknown{hint}"
    if kind == "value_error":
        return f"{where}: {context['error']}" if where else str(context["error"])
    if kind == "text_number":
        inner = "".join(f": {item}" for item in context["place"])
        return f"{where}{inner} is a string in YAML: write !!float {context['text']}"
    wanted = described(place.annotation)
    if wanted.startswith("a number") and isinstance(value, str) and _NUMBER.fullmatch(value):
        return f"{where} is a string in YAML: write !!float {value}"
    if wanted == "a mapping":
        return f"{where} is {'empty' if isinstance(value, dict) else 'not a mapping'}"
    return f"{where} is {value!r}: {_demand(place, wanted, value)}"


def _demand(place: _Place, wanted: str, value: Any) -> str:
    kinds = [kind for kind in alternatives(_plain(place.annotation)) if kind is not NoneType]
    if all(get_origin(kind) is Literal for kind in kinds):
        return f"expected one of {', '.join(str(arg) for kind in kinds for arg in get_args(kind))}"
    examples = place.field.examples if place.field is not None else None
    if wanted == "a list" and examples:
        return f"expected a list such as {str(examples[0]).replace(chr(39), '')}"
    if wanted == "a string" and isinstance(value, int | float):  # such as the name 2024
        return "expected a string, in quotation marks"
    return f"expected {wanted}"


def _section(annotation: Any, given: Any) -> type[BaseModel] | None:
    """The declaration of a section with the content ``given``."""
    entries = list(_flat([annotation]))
    for entry in entries:
        if isinstance(entry, DeclaredBy) and isinstance(given, dict):
            try:
                return entry.find(given)
            except ValueError:
                return None
    return next((entry for entry in entries if is_section(entry)), None)


def _flat(annotations: Iterable[Any]) -> Iterator[Any]:
    """Yields annotations and their metadata, including the bounds of fields."""
    for annotation in annotations:
        for kind in alternatives(annotation):
            if get_origin(kind) is Annotated:
                yield from _flat(get_args(kind))
            elif isinstance(kind, FieldInfo):
                yield from kind.metadata
            else:
                yield kind


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _entry(given: Any, item: int | str) -> Any:
    try:
        return given[item]
    except (KeyError, IndexError, TypeError):
        return None
