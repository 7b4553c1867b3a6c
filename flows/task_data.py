"""Parameters and results of tasks: calls of a stage, and their results.

Tasks exchange manifests, which any task runner can carry; payloads stay in the store. `TaskCalls` and `TaskResults` are
plain classes on purpose: Prefect searches collections, dataclasses and models for futures, up to a thousand per task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from nanochat.config.base import Config
from nanochat.store.manifest import Manifest


@dataclass(frozen=True)
class CallResult:
    """The artifact of one call."""

    manifest: Manifest
    reused: bool
    page: UUID | None = None
    """The page in the UI that shows the artifact."""


class TaskResults:
    """The results of the calls of one task, in their order."""

    def __init__(self, results: Sequence[CallResult]) -> None:
        self.results = results


@dataclass(frozen=True)
class Upstream:
    """An input that another task produces."""

    task: int
    """Index among the upstream results that the task receives."""
    result: int
    """Index among the results of that task."""


CallInput = Manifest | Upstream


@dataclass(frozen=True)
class Call:
    """A node of the graph, in the form in which a task receives it."""

    config: Config
    label: str
    inputs: Mapping[str, CallInput | Sequence[CallInput]]


class TaskCalls:
    """The calls of one task."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls

    @property
    def label(self) -> str:
        """`tokenize shard_00012`, or the first and the last."""
        first, last = self.calls[0].label, self.calls[-1].label
        return first if first == last else f"{first} … {last.rpartition(' ')[2]}"
