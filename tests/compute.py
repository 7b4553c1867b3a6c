"""`Compute` from the names of fields alone."""

from __future__ import annotations

from typing import Any

from nanochat.config.compute import Compute

GROUPS = {name: group for group, values in Compute().model_dump().items() for name in values}


def compute(**fields: Any) -> Compute:
    """`compute(ranks=2, every_s=15)`: each field goes to the group that has it."""
    values: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        values.setdefault(GROUPS[name], {})[name] = value
    return Compute.model_validate(values)
