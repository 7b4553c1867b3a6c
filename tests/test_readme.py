"""The README's commands exist, with the options it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from nanochat.cli.main import app

README = (Path(__file__).parent.parent / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"^\$ (nanochat [^#\n]*)", README, re.MULTILINE)))


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_can_be_typed(command: str) -> None:
    app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)


def test_make_targets_exist() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        if target not in ("a",):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
