"""Declaring options next to the code that reads them: name, type, range, default, description.

A section of an option file is a subclass of :class:`Options`, and options are its fields::

    class TrainOptions(Options):
        ema_decay: float = Field(0, ge=0, description="decay of the moving average of the weights")

Option files are validated against these declarations, classes read their options through them, and
docs/options.md is generated from them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from rescale_compat.errors import RescaleError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True)
class FileCheck:
    """Validation context of an option file that is checked before a run starts.

    Without this context, a class reads the options that it was constructed with. Whether files
    exist, and options that only BasicSR's runners require, are not checked then.

    Attributes:
        is_train: whether the file is for training or for testing.
    """

    is_train: bool


class Options(BaseModel):
    """A section of an option file.

    Values are not converted: an integer is a valid number, but a string is not, and a boolean is
    not a valid integer. An option with the value ``~`` counts as omitted unless its type includes
    None.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, validate_default=True, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        absent = {key for key in cls.model_fields if given.get(key) is None and cls._may_lack(key)}
        return {key: value for key, value in given.items() if key not in absent}

    @classmethod
    def _may_lack(cls, key: str) -> bool:
        field = cls.model_fields[key]
        return not field.is_required() and NoneType not in alternatives(field.annotation)

    @classmethod
    def complete(cls, given: dict[str, Any]) -> None:
        """Adds defaults for omitted options to ``given`` and its sections, in place."""
        for key, field in cls.model_fields.items():
            section = alternatives(field.annotation)[0]
            absent = key not in given or (given[key] is None and cls._may_lack(key))
            if not absent and isinstance(section, type) and issubclass(section, Options):
                if given[key] is not None:
                    section.complete(given[key])
            elif absent and not field.is_required() and field.default is not None:
                given[key] = field.default


@dataclass(frozen=True)
class DeclaredBy:
    """Annotates a mapping whose options depend on its content, such as on the ``type`` of a loss.

    Attributes:
        find: function of the content that returns the declaration, or None to skip validation;
            raises ``ValueError`` if there is none.
    """

    find: Callable[[dict[Any, Any]], type[BaseModel] | None]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Validates the mapping against its declaration."""
        return core_schema.with_info_after_validator_function(self._validate, handler(source))

    def _validate(self, given: dict[Any, Any], info: ValidationInfo) -> dict[Any, Any]:
        schema = self.find(given)
        if schema is not None:
            schema.model_validate(given, context=info.context)
        return given


@dataclass(frozen=True)
class Called:
    """Annotates a type with its description in messages: ``a path``."""

    text: str


def needed(when: Callable[[ValidationInfo], bool], why: str = "") -> AfterValidator:
    """Annotates an option that is required if ``when`` is true; ``why`` is added to the message."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if value is None and when(info):
            raise PydanticCustomError("needed", "{text}", {"text": f"is missing{why}"})
        return value

    return AfterValidator(check)


def in_file(info: ValidationInfo) -> bool:
    """Whether the options are those of an option file."""
    return info.context is not None


def in_training(info: ValidationInfo) -> bool:
    """Whether the options are those of an option file for training."""
    return info.context is not None and info.context.is_train


def in_testing(info: ValidationInfo) -> bool:
    """Whether the options are those of an option file for testing."""
    return info.context is not None and not info.context.is_train


def _exists(path: str, info: ValidationInfo) -> str:
    if path and info.context is not None and not os.path.exists(os.path.expanduser(path)):
        raise RescaleError(f"no such file or folder: {path}")
    return path


ExistingPath = Annotated[str, Called("a path"), AfterValidator(_exists)]
"""A file or folder that must exist when an option file is checked."""


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; any other annotation by itself."""
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (annotation,)


def is_section(annotation: Any) -> bool:
    """Whether an annotation is a declared section."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def declared(schema: type[BaseModel]) -> dict[str, FieldInfo]:
    """Name of an option -> its declaration; aliases are used if the name is not a valid field."""
    return {field.alias or name: field for name, field in schema.model_fields.items()}


def own_options(
    schema: type[BaseModel], base: type[BaseModel], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yields the options that ``schema`` adds to ``base`` or changes, with their path."""
    known = declared(base)
    for name, field in declared(schema).items():
        section = alternatives(field.annotation)[0]
        other = alternatives(known[name].annotation)[0] if name in known else Options
        if is_section(section) and is_section(other):
            yield from own_options(section, other, (*above, name))
        elif name not in known or repr(field) != repr(known[name]):
            yield (*above, name), field
