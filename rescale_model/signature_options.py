"""Declaring the keyword arguments of networks, losses, optimizers and metrics as options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, create_model
from pydantic_core import PydanticCustomError

from rescale_data.option_problems import text_numbers
from rescale_data.option_schema import alternatives, declared


class Keywords(BaseModel):
    """Base class of declarations created from signatures."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


@cache
def from_signature(
    target: Callable[..., Any],
    supplied: Collection[str] = (),
    required: Collection[str] = (),
    base: type[BaseModel] = Keywords,
) -> type[BaseModel]:
    """Declares the keywords of a class or function as options.

    Types are taken from annotations or, where there is none, from defaults. A class whose
    constructor has ``**kwargs`` accepts any option.

    Args:
        target: the class or function; descriptions are taken from ``Args:`` in its docstring.
        supplied: keywords that are not options, since the program passes them.
        required: keywords that are required although they have a default.
        base: declaration of further options, which replace keywords of the same name.
    """
    parameters = inspect.signature(target).parameters
    # functions are metrics, and BasicSR's accept and ignore any keyword
    is_open = inspect.isclass(target) and any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    if is_open:
        base = type(base.__name__, (base,), {"model_config": ConfigDict(extra="allow")})
    hints, texts = _hints(target), described_arguments(target)
    fields: dict[str, Any] = {}
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not named or name in supplied or name in declared(base):
            continue
        has_default = parameter.default is not parameter.empty and name not in required
        # an alias, since pydantic does not allow every field name
        fields[f"option_{name}"] = (
            _expressible(hints[name]) if name in hints else _kind_of(parameter.default),
            Field(
                parameter.default if has_default else ...,
                alias=name,
                description=texts.get(name),
            ),
        )
    return create_model(target.__name__, __base__=base, **fields)


def described_arguments(target: Any) -> dict[str, str]:
    """The ``Args:`` section of a docstring: name -> description in one line."""
    lines = inspect.cleandoc(target.__doc__ or "").splitlines()
    if "Args:" not in lines:
        return {}
    entries: dict[str, str] = {}
    names: list[str] = []
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        match = re.fullmatch(r" {4}(\w[\w, ]*): (.*)", line)
        if match:
            names = match[1].split(", ")
            entries |= dict.fromkeys(names, match[2])
        elif line.strip():
            entries |= {name: f"{entries[name]} {line.strip()}" for name in names}
    return entries


def _hints(target: Any) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (AttributeError, NameError, TypeError):  # names imported for type checkers only
        return {}


def no_text_numbers(value: Any) -> Any:
    """Validates that ``value`` contains no number that YAML reads as a string, such as ``1e-4``."""
    for place, text in text_numbers(value):
        raise PydanticCustomError("text_number", "", {"place": place, "text": text})
    return value


_Unknown = Annotated[Any, AfterValidator(no_text_numbers)]


def _kind_of(default: Any) -> Any:
    """The type of a keyword without annotation; an integer default allows any number."""
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int | float):
        return float
    return _list(_Unknown) if isinstance(default, list | tuple) else _Unknown


def _list(item: Any) -> Any:
    return Annotated[list[item], Strict(False)]  # tuples are also accepted


def _expressible(annotation: Any) -> Any:
    """The part of an annotation that YAML can express; Any if there is none.

    Every kind of sequence becomes a list.
    """
    kinds = [kind for kind in map(_plain, alternatives(annotation)) if kind is not Any]
    if not kinds or kinds == [NoneType]:
        return Any
    return Union[tuple(kinds)]  # noqa: UP007  types known only at run time


def _plain(annotation: Any) -> Any:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in (bool, int, float, str, NoneType, None) or origin is Literal:
        return annotation
    if origin is tuple and args and args[-1] is not Ellipsis:
        return Annotated[tuple[tuple(map(_expressible, args))], Strict(False)]  # type: ignore[misc]
    kind = origin or annotation
    if kind is dict or kind is Mapping:
        return dict[Any, Any]
    if inspect.isclass(kind) and issubclass(kind, Iterable) and kind is not str:
        is_list = issubclass(kind, Sequence | list | tuple) or kind.__module__ == "collections.abc"
        return _list(_expressible(args[0]) if args else Any) if is_list else Any
    return Any
