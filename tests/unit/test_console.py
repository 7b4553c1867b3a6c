"""A run in a terminal: what the library warns of is between its lines."""

from __future__ import annotations

import io
import logging

from rich.console import Console

from nanochat.console import Screen


def test_warnings_of_the_library_are_shown_while_a_run_is_drawn() -> None:
    shown = io.StringIO()
    log = logging.getLogger("nanochat.conversations")
    with Screen(Console(file=shown, width=40)):
        log.warning("%s: %d skipped", "`[mine].jsonl`", 8)
        log.info("not for the terminal")
    log.warning("after the run")
    assert shown.getvalue().strip("\n") == "  warning `[mine].jsonl`: 8 skipped"
