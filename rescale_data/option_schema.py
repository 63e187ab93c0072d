"""Declaring options: name, type, range, default and one line of text, where they are read.

A section of an option file is a subclass of :class:`Options`, an option is a field of it::

    class TrainOptions(Options):
        ema_decay: float = Field(0, ge=0, description="decay of the moving average of the weights")

Option files are checked against these declarations, classes read their options through them, and
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
    """Validation context of an option file that is checked before anything starts.

    Without this context, a class reads options that it was constructed with: whether files exist is
    then left to it, and so is what only BasicSR's runners need.

    Attributes:
        is_train: whether the file is for training or for testing.
    """

    is_train: bool


class Options(BaseModel):
    """A section of an option file.

    Values have the types that YAML gives them: an integer is a number, but text is none, and true
    is no integer. An option that is ``~`` counts as left out, unless its type includes None.
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
        """Adds the defaults of what ``given`` lacks, in its sections as well."""
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
    """Annotates a mapping whose content decides which options it has, as ``type`` of a loss does.

    Attributes:
        find: content -> its declaration; None: it is not checked. Raises ``ValueError`` where
            there is none.
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
    """Annotates a type with what the user is told that it is: ``a path``."""

    text: str


def needed(when: Callable[[ValidationInfo], bool], why: str = "") -> AfterValidator:
    """Annotates an option that has no default where ``when`` is true: None counts as missing."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if value is None and when(info):
            raise PydanticCustomError("needed", "{text}", {"text": f"is missing{why}"})
        return value

    return AfterValidator(check)


def in_file(info: ValidationInfo) -> bool:
    """Whether an option file is checked."""
    return info.context is not None


def in_training(info: ValidationInfo) -> bool:
    """Whether an option file for training is checked."""
    return info.context is not None and info.context.is_train


def in_testing(info: ValidationInfo) -> bool:
    """Whether an option file for testing is checked."""
    return info.context is not None and not info.context.is_train


def _exists(path: str, info: ValidationInfo) -> str:
    if path and info.context is not None and not os.path.exists(os.path.expanduser(path)):
        raise RescaleError(f"no such file or folder: {path}")
    return path


ExistingPath = Annotated[str, Called("a path"), AfterValidator(_exists)]
"""A file or folder that must be there when an option file is checked."""


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; of any other annotation itself alone."""
    if get_origin(annotation) in (Union, UnionType):
        return get_args(annotation)
    return (annotation,)


def is_section(annotation: Any) -> bool:
    """Whether an annotation is a declared section."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def declared(schema: type[BaseModel]) -> dict[str, FieldInfo]:
    """Option -> its declaration. Where an option is no valid name of a field it is the alias."""
    return {field.alias or name: field for name, field in schema.model_fields.items()}


def own_options(
    schema: type[BaseModel], base: type[BaseModel], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """The options that ``schema`` adds to ``base`` or changes, with their sections."""
    known = declared(base)
    for name, field in declared(schema).items():
        section = alternatives(field.annotation)[0]
        other = alternatives(known[name].annotation)[0] if name in known else Options
        if is_section(section) and is_section(other):
            yield from own_options(section, other, (*above, name))
        elif name not in known or repr(field) != repr(known[name]):
            yield (*above, name), field
