"""Parses the records of the store: JSON with a format number."""

import json
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from nanochat.errors import DamagedArtifact, NewerFormat

Record = TypeVar("Record", bound=BaseModel)


def parse_record(model: type[Record], data: bytes, path: str, what: str, *, hint: str) -> Record:
    """Parses a record. `what` names it in error messages: `a manifest`.

    Raises `NewerFormat` if a newer version wrote it, `DamagedArtifact` if it is not such a record.
    """
    try:
        content = json.loads(data)
        check_format(content, model.model_fields["format"].default if "format" in model.model_fields else 1, path)
        return model.model_validate_json(data)
    except (ValidationError, ValueError, RecursionError) as error:
        raise DamagedArtifact(f"`{path}` is not {what} of this version.", hint=hint) from error


def check_format(content: object, known: int, path: str) -> None:
    """Raises `NewerFormat` if the `format` of a record is greater than the known one."""
    found = cast("dict[str, Any]", content).get("format", 1) if isinstance(content, dict) else 1
    if isinstance(found, int) and found > known:
        raise NewerFormat(
            f"`{path}` was written by a newer version (format {found}; this one reads up to {known}).",
            hint="Use that version, or a later one.",
        )
