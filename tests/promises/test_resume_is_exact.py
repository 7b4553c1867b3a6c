"""A run that is killed and started again has, bit for bit, the loss curve of one that never was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.training.tiny import curve, launched, make_data
from tests.waiting import until

STEPS = 150


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_kill_everything_and_go_on(ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other are slow on a busy machine
    data = make_data(tmp_path / "data")
    whole = launched(data, tmp_path / "whole", "", STEPS, ranks=ranks)
    assert whole["resumed_from_step"] == 0

    command = [sys.executable, "-m", "tests.training.tiny", str(data), str(tmp_path / "killed"), str(ranks), str(STEPS)]
    parent = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    checkpoints = data / "checkpoints" / f"of-{ranks}"
    until(lambda: parent.poll() is not None or list(checkpoints.glob("*/manifest.json")), "a checkpoint", every_s=0.02)
    assert parent.poll() is None, (tmp_path / "killed" / "log.txt").read_text()
    family = [*psutil.Process(parent.pid).children(recursive=True), psutil.Process(parent.pid)]
    for process in family:
        os.kill(process.pid, signal.SIGKILL)
    parent.wait()
    psutil.wait_procs(family)
    assert not (tmp_path / "killed" / "result.json").exists()

    again = launched(data, tmp_path / "again", checkpoints.as_uri(), STEPS, ranks=ranks)
    assert 0 < again["resumed_from_step"] < STEPS
    assert curve(tmp_path / "again") == curve(tmp_path / "whole")
