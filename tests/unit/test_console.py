"""A run in a terminal: bars for its nodes, and the library's warnings between its lines."""

from __future__ import annotations

import io
import logging

from rich.console import Console

from nanochat.console import Screen
from nanochat.events import Event


def test_warnings_of_the_library_are_shown_while_a_run_is_drawn() -> None:
    shown = io.StringIO()
    log = logging.getLogger("nanochat.conversations")
    with Screen(Console(file=shown, width=40)):
        log.warning("%s: %d skipped", "`[mine].jsonl`", 8)
        log.info("not for the terminal")
    log.warning("after the run")
    assert shown.getvalue().strip("\n") == "  warning `[mine].jsonl`: 8 skipped"


def test_a_terminal_shows_how_many_of_the_queued_nodes_have_finished() -> None:
    shown = io.StringIO()
    with Screen(Console(file=shown, width=100, force_terminal=True)) as screen:
        for label in ("download", "pack"):
            screen(Event(label=label, stage=label, kind="queued"))
        screen(Event(label="download", stage="download", kind="finished"))
    assert "1 of 2" in shown.getvalue()
