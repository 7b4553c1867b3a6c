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
BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """YAML with the booleans of JSON: `off` is text, as `kernels.compile` needs it. Refuses repeated names."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        pairs = [(self.construct_object(key, deep=True), key) for key, _ in node.value]
        unique_names([(str(name), None) for name, _ in pairs])
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in known if tag not in (BOOL, "tag:yaml.org,2002:timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(BOOL, re.compile("true|false"), ["t", "f"])


def read_values(path: str | Path) -> Any:
    """The values in a JSON or YAML file; `-` is standard input.

    Raises `NotFound` for a file that does not exist, and `BadConfig` for one that cannot be read or parsed.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else Path(path).expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"There is no file `{shown(path)}`.") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadConfig(f"`{shown(path)}` cannot be read: {shown(reason)}.") from None
    try:
        return json.loads(text, object_pairs_hook=unique_names)
    except (ValueError, RecursionError):
        pass
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadConfig(f"`{shown(path)}` is neither JSON nor YAML: {shown(error.problem)}{where}.") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise BadConfig(f"`{shown(path)}` is neither JSON nor YAML: {shown(error)}.") from None


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
