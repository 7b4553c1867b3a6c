"""Changes fields by path (`--set pretrain.depth=6`) and parses configs from JSON values; errors name the field."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from nanochat.config.base import AbsentMeans, Config
from nanochat.errors import BadConfig

C = TypeVar("C", bound=Config)

MAX_DEPTH = 20
"""Nesting limit of a JSON value."""
QUOTED = 200
"""Characters of a value that an error message quotes."""


def override(config: C, changes: Iterable[str]) -> C:
    """Applies changes of the form `path.to.field=value` to a config. A value that is not JSON counts as text.

    Raises `BadConfig` for an unknown field (with the nearest name), a wrong type or a value out of range.
    """
    changed: dict[str, Any] = config.model_dump(mode="json")
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not path.strip():
            raise BadConfig(
                f"`{shown(change)}` is not of the form `field=value`.", hint="For example `pretrain.model.depth=6`."
            )
        current = config.current_path(path.strip())
        _set(changed, type(config), current, _value(current, text))
    return parse(type(config), changed)


def _value(path: str, text: str) -> Any:
    """Parses `text` as JSON; text that is not JSON is returned as it is."""
    try:
        value = json.loads(text, object_pairs_hook=unique_names)
    except json.JSONDecodeError:
        return text
    except ValueError as error:  # a repeated name, or a number with thousands of digits
        raise BadConfig(f"`{path}`: {str(error).partition(':')[0]}, got `{shown(text)}`.") from None
    except RecursionError:
        value = None
    if (value is None and text.strip() != "null") or _is_deep(value, MAX_DEPTH):
        raise BadConfig(f"`{path}`: the value is nested more than {MAX_DEPTH} deep, got `{shown(text)}`.")
    return value


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict. Raises `ValueError` for a repeated name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name appears twice")
    return found


def _is_deep(value: Any, allowed: int) -> bool:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return allowed == 0 or any(_is_deep(each, allowed - 1) for each in inner if isinstance(each, dict | list))


def shown(value: Any) -> str:
    """A value as an error message quotes it: one short, printable line."""
    try:
        text = str(value)
    except (ValueError, RecursionError):  # an integer with thousands of digits
        return f"a very large {type(value).__name__}"
    kept = (each if each.isprintable() else each.encode("unicode_escape").decode() for each in text[:QUOTED])
    return "".join(kept) + "…" * (len(text) > QUOTED)


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the changes, at every depth. A list is replaced as a whole."""
    merged = dict(values)
    for name, change in changes.items():
        below = merged.get(name)
        merged[name] = merge(below, change) if isinstance(below, Mapping) and isinstance(change, Mapping) else change
    return merged


def parse(kind: type[C], values: Any, path: str = "") -> C:
    """Parses a config from JSON values. Raises `BadConfig` naming the first wrong field, below `path`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = shown(".".join([*filter(None, [path]), *map(str, first["loc"])])) or kind.__name__
        message = first["msg"][0].lower() + first["msg"][1:]
        given = first.get("input")
        got = "" if isinstance(given, dict) else f", got `{shown(given)}`"  # a whole section would hide the message
        raise BadConfig(f"`{where}`: {message}{got}.") from None


def complete(kind: type[C], values: Any, path: str = "") -> C:
    """Parses a config in which only fields may be missing that a key leaves out; they get their `AbsentMeans` value.

    Raises `BadConfig` naming the first wrong or missing field.
    """
    return _completed(parse(kind, values, path), path)


def _completed(value: Any, path: str) -> Any:
    if isinstance(value, tuple):
        return tuple(_completed(each, f"{path}.{index}") for index, each in enumerate(value))
    if not isinstance(value, Config):
        return value
    update: dict[str, Any] = {}
    for name, field in type(value).model_fields.items():
        where = f"{path}.{name}".lstrip(".")
        absent = [mark.value for mark in field.metadata if isinstance(mark, AbsentMeans)]
        if name in value.model_fields_set:
            update[name] = _completed(getattr(value, name), where)
        elif absent:
            update[name] = absent[0]
        else:
            hint = "A complete config is needed, as `nanochat config` prints it."
            raise BadConfig(f"`{where}` is missing.", hint=hint)
    return value.model_copy(update=update)


def _set(values: dict[str, Any], kind: type[Config], path: str, value: Any) -> None:
    names = _whole_path(values, path.split("."))
    here: Any = values
    for depth, name in enumerate(names):
        if not isinstance(here, dict) or name not in here:
            owner = ".".join(names[:depth]) or kind.__name__
            fields = list(here) if isinstance(here, dict) else []
            below = {found[-1]: ".".join(found) for found in _paths(values) if found[:depth] == names[:depth]}
            near = difflib.get_close_matches(name, below, 1)
            hint = (
                f"Did you mean `{below[near[0]]}`?"
                if near
                else f"It has {', '.join(f'`{field}`' for field in fields)}."
            )
            if isinstance(here, list):
                hint = "It is a list: pass the whole list as JSON."
            elif not fields:
                hint = "It is a single value."
            raise BadConfig(f"`{shown(owner)}` has no field `{shown(name)}`.", hint=hint)
        if depth == len(names) - 1:
            here[name] = value
            return
        here = here[name]


def _whole_path(values: dict[str, Any], names: list[str]) -> list[str]:
    """Expands `pretrain.depth` to `pretrain.model.depth` if `depth` is unique below `pretrain`."""
    known = [path for path in _paths(values) if path[0] == names[0]]
    ends = [path for path in known if path[-1] == names[-1] and set(names) <= set(path)]
    return ends[0] if len(ends) == 1 else names


def _paths(values: dict[str, Any]) -> list[list[str]]:
    return [
        [name, *below]
        for name, value in values.items()
        for below in ([[], *_paths(value)] if isinstance(value, dict) else [[]])
    ]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"depth": 4}}` → `{"model.depth": 4}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat
