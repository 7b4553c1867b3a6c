"""Reads JSON and YAML files of config values."""

import json
import re
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from nanochat.config.base import Config
from nanochat.config.overrides import complete, shown, unique_names
from nanochat.errors import BadConfig, NanochatError, NotFound

C = TypeVar("C", bound=Config)

SUFFIXES = (".yaml", ".yml", ".json")
BOOL, MERGE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:merge"
MAX_CHARACTERS = 1 << 20
MAX_VALUES = 100_000
"""Limit of the values in a file, counted once per YAML alias: a few lines of aliases can stand for billions."""


class _Loader(yaml.SafeLoader):
    """YAML with the booleans of JSON: `off` is text, as `kernels.compile` needs it. Refuses repeated names."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != MERGE]
        unique_names([(str(name), None) for name in names])
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in known if tag not in (BOOL, "tag:yaml.org,2002:timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(BOOL, re.compile("true|false"), ["t", "f"])


def read_values(path: str | Path) -> dict[str, Any]:
    """The values in a JSON or YAML file; `-` is standard input.

    Raises `NotFound` for a file that does not exist, and `BadConfig` for one that cannot be read or parsed.
    """
    try:
        text = _read_text(path)
    except FileNotFoundError:
        raise NotFound(f"There is no file `{shown(path)}`.") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadConfig(f"`{shown(path)}` cannot be read: {shown(reason)}.") from None
    try:
        values = _parse(text)
        _limit(values)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadConfig(f"`{shown(path)}` is neither JSON nor YAML: {shown(error.problem)}{where}.") from None
    except yaml.YAMLError as error:
        reason = str(error).partition("\n")[0]
        raise BadConfig(f"`{shown(path)}` is neither JSON nor YAML: {shown(reason)}.") from None
    except RecursionError:
        raise BadConfig(f"`{shown(path)}`: the values are nested too deeply.") from None
    except (ValueError, TypeError) as error:  # a repeated name, or a number with thousands of digits
        raise BadConfig(f"`{shown(path)}`: {shown(str(error).partition(':')[0])}.") from None
    if not isinstance(values, dict):
        kind = "empty" if values is None else "a list" if isinstance(values, list) else "a single value"
        raise BadConfig(f"`{shown(path)}` is {kind}, and not an object with named fields.")
    return values


def _read_text(path: str | Path) -> str:
    if str(path) == "-":
        text = sys.stdin.read(MAX_CHARACTERS + 1)
    else:
        with Path(path).expanduser().open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS:,} characters")
    return text


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_names)
    except json.JSONDecodeError:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader


def _limit(values: Any) -> None:
    left, waiting = MAX_VALUES, [values]
    while waiting:
        value = waiting.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"it has more than {MAX_VALUES:,} values")
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | set | tuple):
            waiting.extend(value)


def read_config(kind: type[C], path: str | Path) -> C:
    """Reads a complete config, as `nanochat config` prints it or a run records it. Raises `NotFound` or `BadConfig`."""
    values = read_values(path)
    try:
        return complete(kind, values)
    except NanochatError as error:
        raise in_file(path, error) from None


def in_file(path: str | Path, error: NanochatError) -> NanochatError:
    """The error, with the file that it is about."""
    return type(error)(f"`{shown(path)}`: {error.message}", hint=error.hint)
