"""What the tasks of a flow run share with the process that started it: sinks of events, and the request to stop."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from nanochat.events import Reporter, Sink, StopRequest


@dataclass(frozen=True)
class RunControl:
    """Threads share it; a task in another process has a separate one, without sinks."""

    sinks: tuple[Sink, ...] = ()
    stop: StopRequest = field(default_factory=StopRequest)
    on_start: Callable[[str, str], None] = lambda run_id, url: None
    """Called with the id and the page of the flow run when it begins."""

    def with_sink(self, sink: Sink) -> RunControl:
        """The same control with one more sink, called before the others."""
        return replace(self, sinks=(sink, *self.sinks))

    def reporter(self, label: str, stage: str) -> Reporter:
        """The reporter of one node, which raises `Stopped` once a stop was requested."""
        return Reporter(label, stage, (self.stop, *self.sinks))


CONTROL: ContextVar[RunControl] = ContextVar("control", default=RunControl())  # noqa: B039 - a worker's process runs one flow
"""Set by the command line around the flow; the threads of its tasks inherit it."""
