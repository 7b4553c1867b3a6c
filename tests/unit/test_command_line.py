"""How the command line ends."""

from __future__ import annotations

import sys

import pytest

from nanochat.cli.main import main


def test_ctrl_c_says_that_what_was_finished_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nanochat.profiles.profile", interrupted)
    monkeypatch.setattr(sys, "argv", ["nanochat", "config"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert "What was finished is kept" in capsys.readouterr().err
