"""Progress as events: a stage reports to a list of sinks, and each sink shows or records some of the events.

An event contains no artifact, so every package can import this module. A sink may raise, to end the emitting stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from nanochat.errors import Stopped

Kind = Literal["queued", "started", "progress", "log", "finished", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happens to one node of a graph."""

    label: str
    """`tokenize shard_00012`: unique in a run."""
    stage: str
    kind: Kind
    done: float = 0
    total: float = 0
    """0: unknown."""
    unit: str = ""
    message: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Metrics of training while it runs; of the artifact when the node has finished."""
    key: str = ""
    """Key of the artifact; only when finished."""
    cached: bool = False
    """Whether the artifact was reused; only when finished."""
    seconds: float = 0.0
    """Of making the artifact, without waiting for its turn; 0 if it was reused. Only when finished."""
    error: str = ""
    """Message of the error with which the node failed."""


Sink = Callable[[Event], None]


@dataclass(frozen=True)
class Reporter:
    """Reports the progress of one node. Sinks limit the rate at which they draw or write, so calls are cheap."""

    label: str = ""
    stage: str = ""
    sinks: tuple[Sink, ...] = ()

    def __call__(
        self, done: float, total: float, unit: str = "", message: str = "", metrics: Mapping[str, float] | None = None
    ) -> None:
        """Reports `done` of `total` units; `total` is 0 when it is unknown."""
        self.emit("progress", done=done, total=total, unit=unit, message=message, metrics=metrics or {})

    def log(self, message: str) -> None:
        """Reports what the node waits for, or that it still runs; with an empty message, it only lets sinks raise."""
        self.emit("log", message=message)

    def emit(self, kind: Kind, **fields: Any) -> None:
        """Passes one event to every sink, in order."""
        event = Event(label=self.label, stage=self.stage, kind=kind, **fields)
        for sink in self.sinks:
            sink(event)

    def with_sink(self, sink: Sink) -> Self:
        """The same reporter with one more sink, called before the others."""
        return replace(self, sinks=(sink, *self.sinks))


silent = Reporter()


class StopRequest:
    """A sink that ends each stage at its next event, once a stop was requested. Threads may share it."""

    def __init__(self) -> None:
        self.reason = ""

    def request(self, reason: str) -> None:
        """Keeps the first reason."""
        self.reason = self.reason or reason

    def __call__(self, event: Event) -> None:
        if self.reason and event.kind not in ("finished", "failed"):
            raise Stopped(self.reason)
