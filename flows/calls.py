"""What goes into a task and comes out of it: calls of a stage, and what became of them.

Between tasks go manifests, which any task runner can carry; the payload stays in the store. The two classes that hold
many are plain ones on purpose: into collections, dataclasses and models Prefect looks for futures, a thousand times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from nanochat.config.base import Config
from nanochat.store.manifest import Manifest


@dataclass(frozen=True)
class Made:
    """An artifact that a call made or reused."""

    manifest: Manifest
    reused: bool
    page: UUID | None = None
    """Of the UI, on which it is."""


class Batch:
    """What the calls of one task made, in their order."""

    def __init__(self, made: Sequence[Made]) -> None:
        self.made = made


@dataclass(frozen=True)
class Upstream:
    """An input that another task makes: which of those that a task is given, and which of its artifacts."""

    task: int
    place: int = 0


@dataclass(frozen=True)
class Call:
    """One call of a stage."""

    config: Config
    label: str
    inputs: Mapping[str, Given | Sequence[Given]]


Given = Manifest | Upstream
"""One input of a call."""


class Calls:
    """Those of one task."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls

    @property
    def label(self) -> str:
        """`tokenize shard_00012`, or the first and the last."""
        first, last = self.calls[0].label, self.calls[-1].label
        return first if first == last else f"{first} … {last.rpartition(' ')[2]}"
