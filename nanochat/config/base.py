"""The base of every config: frozen, documented field by field, with one canonical form."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

LOG = logging.getLogger("nanochat.config")
MAX_VOCABULARY = 1 << 24
MAX_INTEGER = (1 << 63) - 1
"""Of any field: what torch takes as a seed, and Parquet and databases as a number."""
MAX_ITEMS = 1000
"""Of any list."""
MAX_SECONDS = 1e9
"""Thirty years."""

Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class AbsentMeans:
    """Marks a field added after artifacts existed: at this value it leaves the key as it was before."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Config(BaseModel):
    """A frozen set of knobs; each field carries a docstring (refused at import without one)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    renamed_fields: ClassVar[Mapping[str, str]] = {}
    """Old name of a field → its path today. An old name works for one release, and is logged."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if not field.description:
                raise TypeError(f"`{cls.__name__}.{name}` has no docstring")

    @classmethod
    def current_path(cls, path: str) -> str:
        """The path of a field, whose old name is accepted and logged."""
        current = cls.renamed_fields.get(path, path)
        if current != path:
            LOG.warning("`%s` is called `%s` now; the old name will not work in the next release.", path, current)
        return current

    @classmethod
    def with_current_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with renamed fields under their current names. A value under the current name takes precedence."""
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
    def _no_truth_value_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[field.field_name or ""].annotation in (int, float):
            raise PydanticCustomError("number", "input should be a number, not true or false")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _what_every_value_keeps_to(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise PydanticCustomError("integer", "input should be at most {most}", {"most": MAX_INTEGER})
        if isinstance(value, str):
            _check_text(value)
        if isinstance(value, tuple):
            if len(value) > MAX_ITEMS:
                raise PydanticCustomError("list", "input should have at most {most} items", {"most": MAX_ITEMS})
            for each in value:
                cls._what_every_value_keeps_to(each)
        return value

    def canonical(self) -> dict[str, Any]:
        """What enters the key: every field, nested, without those that are at their `AbsentMeans` value."""
        result: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            absent = [mark for mark in field.metadata if isinstance(mark, AbsentMeans)]
            if absent and value == absent[0].value:
                continue
            result[name] = _canonical(value)
        return result


def _check_text(text: str) -> None:
    """Raises on what no file, database or page can hold."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PydanticCustomError("text", "input should be valid Unicode without NUL characters")


def _canonical(value: Any) -> Any:
    if isinstance(value, Config):
        return value.canonical()
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 12 and 12.0 ask for the same thing
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a {type(value).__name__} has no stable form and cannot be part of a key")


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted names, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
