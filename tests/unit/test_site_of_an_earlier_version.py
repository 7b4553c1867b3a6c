"""A site that an earlier version started is found and ended."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("prefect") is None:
    pytest.skip("prefect is not installed", allow_module_level=True)

from flows.site.supervisor import has_supervisor, read_state
from flows.site.up import down

OLD_SUPERVISOR = """
import fcntl, json, os, pathlib, sys, time
file = pathlib.Path(sys.argv[1]).open("w")
fcntl.flock(file, fcntl.LOCK_EX)
json.dump({"pid": os.getpid(), "api_url": "", "pools": ["cpu"], "named": False}, file)
file.flush()
print("locked", flush=True)
time.sleep(600)
"""


def test_down_ends_a_site_that_an_earlier_version_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path))
    folder = tmp_path / "prefect"
    folder.mkdir()
    assert not has_supervisor(folder) and read_state(folder) is None
    command = [sys.executable, "-c", OLD_SUPERVISOR, str(folder / "keeper.json")]  # plain-words: ok
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout and process.stdout.readline() == "locked\n"
        state = read_state(folder)
        assert has_supervisor(folder) and state and state["pid"] == process.pid
        lines: list[str] = []
        down(lines.append)
        assert process.poll() is not None
    assert lines == ["Down."]
    assert not has_supervisor(folder)
