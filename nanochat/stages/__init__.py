"""The stages of the graphs: every `Stage` in a module of this package is registered by being there."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from nanochat.execution.stage import Stage


@cache
def all_stages() -> dict[str, Stage[Any, Any]]:
    """Name → stage."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    found = [each for module in modules for each in vars(module).values() if isinstance(each, Stage)]
    return {stage.name: stage for stage in found}
