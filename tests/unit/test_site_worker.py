"""A worker that is ended stops taking runs, and its runs save what they have."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("prefect") is None:
    pytest.skip("prefect is not installed", allow_module_level=True)

from flows.site import worker
from flows.site.server_check import ServerUnavailable
from tests.waiting import until

WORKER = """
import signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (folder / "worker-got-term").touch())
run = [sys.executable, "-c", Path(sys.argv[2]).read_text(), str(folder)]
subprocess.Popen(run, start_new_session=True)
while True:
    with (folder / "polls").open("a") as file:
        file.write("x")
    time.sleep(0.02)
"""
"""Stands for Prefect's worker: it polls, and starts each run in a session of its own."""
RUN = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def save(*_):
    before = (folder / "polls").stat().st_size
    time.sleep(1)
    (folder / "saved").write_text(f"{(folder / 'polls').stat().st_size - before} polls meanwhile")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
(folder / "up").touch()
time.sleep(600)
"""
MAIN = "import sys; from flows.site.worker import run_worker; sys.exit(run_worker(sys.argv[1:]))"


def test_runs_end_before_their_worker_which_takes_no_other(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, "-c", WORKER, str(tmp_path), str(tmp_path / "run.py")]
    process = subprocess.Popen([sys.executable, "-c", MAIN, *command], stdout=subprocess.PIPE, text=True)
    until((tmp_path / "up").exists, "the run")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 0
    assert output == "Ending the runs of this worker: 1. Training saves a checkpoint.\n"
    assert (tmp_path / "saved").read_text() == "0 polls meanwhile"
    assert not (tmp_path / "worker-got-term").exists()


def test_the_exit_code_of_a_worker_that_ends_is_passed_on() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        assert worker.run_worker([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_worker_that_is_first_waits_for_its_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([False, False, False, True])
    checked: list[str] = []
    monkeypatch.setattr(worker, "is_healthy", lambda url: next(answers))
    monkeypatch.setattr(worker, "check_server", checked.append)
    monkeypatch.setattr(worker.time, "sleep", lambda _: None)
    worker.wait_for_server("http://me:secret@server:4200/api")
    assert checked == ["http://me:secret@server:4200/api"]
    assert capsys.readouterr().out == "Waiting up to 10 min for the Prefect server at http://server:4200/api.\n"


def test_a_worker_whose_server_never_answers_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "WAIT_FOR_SERVER_S", 0.0)
    with pytest.raises(ServerUnavailable, match="does not answer"):
        worker.wait_for_server("http://127.0.0.1:9/api")
