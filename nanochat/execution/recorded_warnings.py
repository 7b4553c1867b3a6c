"""The warnings that a stage logs, for its manifest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager

from nanochat.failures import without_secrets

LOG = logging.getLogger("nanochat")
MOST, LONGEST = 100, 500
"""Warnings of one stage, and characters of one: a manifest stays small."""


class _Recorder(logging.Handler):
    """Keeps the warnings of one thread: several stages run at once, each in its own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread, self.messages = threading.get_ident(), dict[str, None]()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread and len(self.messages) < MOST:
            self.messages[without_secrets(record.getMessage())[:LONGEST]] = None


@contextmanager
def recorded_warnings() -> Generator[list[str]]:
    """The list has the warnings of the block, each once, when the block has ended."""
    recorder, found = _Recorder(), list[str]()
    LOG.addHandler(recorder)
    try:
        yield found
    finally:
        LOG.removeHandler(recorder)
        found += recorder.messages
