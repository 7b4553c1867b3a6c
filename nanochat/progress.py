"""Progress as calls: a stage says how far it is, whoever watches draws it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """`progress(done, total, unit, message, metrics)`; `total` 0 when nobody knows it.

    Cheap to call often: whoever draws it limits the rate.
    """

    def __call__(
        self, done: float, total: float, unit: str, message: str = "", metrics: Mapping[str, float] | None = None
    ) -> None: ...


def silent(done: float, total: float, unit: str, message: str = "", metrics: Mapping[str, float] | None = None) -> None:
    """For who does not watch."""
