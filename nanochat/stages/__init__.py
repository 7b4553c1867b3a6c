"""The stages of the graphs. Every `Stage` in a module of this package is registered automatically."""

import importlib
import pkgutil
from functools import cache
from typing import Any

from nanochat.execution.stage import Stage


@cache
def all_stages() -> dict[str, Stage[Any, Any]]:
    """All stages by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    values = [value for module in modules for value in vars(module).values()]
    found: list[Stage[Any, Any]] = [value for value in values if isinstance(value, Stage)]
    return {stage.name: stage for stage in found}
