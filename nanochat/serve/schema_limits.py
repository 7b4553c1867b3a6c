"""Limits of JSON schemas that clients send: what `llguidance` compiles within about a second.

Its own limits do not cover two constructions. `multipleOf` needs an automaton with as many states as the number, and
patterns that one value must match together need the product of theirs (16 of them take minutes).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from nanochat.errors import BadConfig

MAX_SCHEMA_CHARACTERS = 32_768
MAX_DEPTH = 100
"""Nesting of objects and arrays in the schema; the parser's own limit is 128."""
MAX_MULTIPLES = 10_000
"""Number of `multipleOf` in a schema times the least common multiple of their digits."""
MAX_PATTERNS = 64
MAX_COMBINED_PATTERNS = 8
"""If a value has several schemas, as in `{"$ref": …, "pattern": …}`: it may have to match all patterns."""
PATTERNS = ("pattern", "format", "patternProperties")
REFERENCES = {"allOf", "anyOf", "oneOf", "$ref"}
ANNOTATIONS = {
    "$defs", "definitions", "$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated",
    "readOnly", "writeOnly",
}  # fmt: skip


def check_schema(schema: Mapping[str, Any]) -> str:
    """The schema as text, the same for equal schemas. Raises `BadConfig` if it exceeds a limit."""
    try:
        nodes = list(_objects(schema, MAX_DEPTH))
        text = json.dumps(schema, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise BadConfig("`response_format`: the schema cannot be written as JSON.") from error
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise BadConfig(
            f"`response_format`: the schema has {len(text):,} characters; the limit is {MAX_SCHEMA_CHARACTERS:,}."
        )
    _check_multiples([node["multipleOf"] for node in nodes if "multipleOf" in node])
    _check_patterns(nodes)
    return text


def _objects(value: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """Every object in a JSON value."""
    if not depth:
        raise BadConfig(f"`response_format`: the schema is nested deeper than {MAX_DEPTH}.")
    if isinstance(value, Mapping):
        yield value
    for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _objects(each, depth - 1)


def _check_multiples(found: list[Any]) -> None:
    numbers = [value for value in found if isinstance(value, int | float)]  # others are properties of that name
    if any(value <= 0 for value in numbers):
        raise BadConfig("`response_format`: `multipleOf` must be greater than 0.")
    digits = [int("".join(map(str, Decimal(repr(value)).normalize().as_tuple().digits))) for value in numbers]
    if len(digits) * math.lcm(*digits) > MAX_MULTIPLES:
        raise BadConfig("`response_format`: the values of `multipleOf` are too many, or have too many digits.")


def _check_patterns(nodes: list[Mapping[str, Any]]) -> None:
    """Counts what may be a pattern, wherever it is: a property of that name counts too."""
    found = [node[name] for node in nodes for name in PATTERNS if name in node]
    count = sum(len(value) if isinstance(value, Mapping) else 1 for value in found)
    combined = any(_combines(node) for node in nodes)
    limit = MAX_COMBINED_PATTERNS if combined else MAX_PATTERNS
    if count > limit:
        where = " together with `allOf`, or next to `anyOf`, `oneOf` or `$ref`," if combined else ""
        raise BadConfig(f"`response_format`: the schema has {count} patterns and formats; the limit{where} is {limit}.")


def _combines(node: Mapping[str, Any]) -> bool:
    """Whether a value has to match several schemas."""
    all_of = node.get("allOf")
    constraints = node.keys() - ANNOTATIONS
    return bool(REFERENCES & constraints) and (len(constraints) > 1 or (isinstance(all_of, list) and len(all_of) > 1))
