"""The base of every config: frozen, documented field by field, with one canonical form."""

import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

LOG = logging.getLogger("nanochat.config")
MAX_VOCABULARY = 1 << 24
MAX_INTEGER = (1 << 63) - 1
"""Limit of every integer field: torch seeds, Parquet and databases hold 64 bits."""
MAX_ITEMS = 1000
"""Limit of every list."""
MAX_SECONDS = 1e9
"""About thirty years."""

Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class AbsentMeans:
    """Marks a field that was added after artifacts existed. At this value it is left out of the key."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Config(BaseModel):
    """A frozen set of fields. Every field needs a docstring: it is the help text in the form and in the reference."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    renamed_fields: ClassVar[Mapping[str, str]] = {}
    """Old name of a field → its current path. Old names are accepted for one release, with a warning in the log."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if not field.description:
                raise TypeError(f"`{cls.__name__}.{name}` has no docstring")

    @classmethod
    def current_path(cls, path: str) -> str:
        """The current path of a field; logs a warning when `path` is an old name."""
        current = cls.renamed_fields.get(path, path)
        if current != path:
            LOG.warning("`%s` is now `%s`; the next release will refuse the old name.", path, current)
        return current

    @classmethod
    def with_current_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Moves renamed fields to their current path. A value given under the current name takes precedence."""
        current = {name: value for name, value in values.items() if name not in cls.renamed_fields}
        for old in cls.renamed_fields.keys() & values.keys():
            group, _, name = cls.current_path(old).partition(".")
            fields = current.get(group, {})
            fields = fields.model_dump() if isinstance(fields, Config) else fields
            if isinstance(fields, Mapping):
                current[group] = {name: values[old], **fields}
        return current

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        return cls.with_current_names(values) if cls.renamed_fields and isinstance(values, Mapping) else values

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_for_number(cls, value: Any, field: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[field.field_name or ""].annotation in (int, float):
            raise PydanticCustomError("number", "input should be a number, not true or false")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _check_limits(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise PydanticCustomError("integer", "input should be at most {most}", {"most": MAX_INTEGER})
        if isinstance(value, str):
            _check_text(value)
        if isinstance(value, tuple):
            if len(value) > MAX_ITEMS:
                raise PydanticCustomError("list", "input should have at most {most} items", {"most": MAX_ITEMS})
            for each in value:
                cls._check_limits(each)
        return value

    def canonical(self) -> dict[str, Any]:
        """The part that enters the key: all fields, nested, except those at their `AbsentMeans` value."""
        result: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            absent = [mark for mark in field.metadata if isinstance(mark, AbsentMeans)]
            if absent and value == absent[0].value:
                continue
            result[name] = _canonical(value)
        return result


def _check_text(text: str) -> None:
    """Refuses text that files, databases and pages cannot hold."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PydanticCustomError("text", "input should be valid Unicode without NUL characters")


def _canonical(value: Any) -> Any:
    if isinstance(value, Config):
        return value.canonical()
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 12 and 12.0 mean the same
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a {type(value).__name__} has no stable form and cannot be part of a key")


def canonical_json(value: Any) -> str:
    """A JSON value in its only spelling: sorted names, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
