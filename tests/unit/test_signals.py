"""Signals end a command as Ctrl-C does: what it held is given back, its record ended, its children gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nanochat import settings
from tests.waiting import until

ROOT = str(Path(settings.__file__).parents[1])
ENDLESS = ("--set", "data.world.shards=1", "data.world.documents_per_shard=200", "tokenizer.vocab_size=300")
TRAINS = ("pretrain.horizon.amount=100000000", "pretrain.model.depth=1", "rows.sequence_len=32")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup pytest` ignores it, and children would inherit that
    yield tmp_path / "home"
    signal.signal(signal.SIGHUP, before)
    for process in processes(tmp_path / "home"):
        process.kill()


def processes(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("NANOCHAT_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def start(home: Path, *command: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, "NANOCHAT_HOME": str(home), "PYTHONPATH": ROOT}
    environment.pop("PREFECT_API_URL", None)
    return subprocess.Popen(
        [*prefix, sys.executable, "-P", "-m", "nanochat.cli", *command],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def states(home: Path) -> list[str]:
    return [json.loads(path.read_text())["state"] for path in sorted(home.glob("store/v1/runs/*.json"))]


def leases(home: Path) -> list[Path]:
    return list(home.glob("store/v1/leases/**/*.json"))


@pytest.mark.parametrize(
    ("how", "number"), [(["--plain"], signal.SIGHUP), ([], signal.SIGTERM)], ids=["plain-HUP", "prefect-TERM"]
)
def test_a_run_that_gets_a_signal_leaves_nothing_behind(home: Path, how: list[str], number: signal.Signals) -> None:
    with start(home, "run", *how, *ENDLESS, *TRAINS, "--compute", "parallelism.ranks=1") as run:
        until(lambda: list(home.glob("runs/pretrain/*/metrics.jsonl")) or run.poll() is not None, "training")
        assert run.poll() is None, run.stdout and run.stdout.read()
        assert leases(home)
        run.send_signal(number)
        output, _ = run.communicate(timeout=300)
    assert run.returncode == 128 + number, output
    assert "Finished stages are kept" in output
    assert "Traceback" not in output
    assert states(home) == ["cancelled"]
    assert leases(home) == []
    until(lambda: not processes(home), "its processes to end")


def test_the_second_signal_ends_at_once(home: Path) -> None:
    code = (
        "import time\nfrom nanochat.cli.signals import run_with_signals\n"
        "def stubborn():\n"
        "    try:\n        print('up', flush=True); time.sleep(600)\n"
        "    finally:\n        print('tidies', flush=True); time.sleep(600)\n"
        "run_with_signals(stubborn)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "tidies\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143


def test_what_nohup_ignores_stays_ignored(home: Path) -> None:
    code = (
        "import os, signal, time\nfrom nanochat.cli.signals import run_with_signals\n"
        "run_with_signals(lambda: (os.kill(os.getpid(), signal.SIGHUP), print('goes on')))"
    )
    done = subprocess.run(
        ["nohup", sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True
    )
    assert "goes on" in done.stdout


def _namespace() -> tuple[str, ...]:
    command = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces here")
    return command


def test_the_first_process_of_a_container_ends_in_an_orderly_way(home: Path) -> None:
    """It is given no default handlers, and the orphans; its TERM comes from outside."""
    with start(
        home, "run", "--plain", *ENDLESS, *TRAINS, "--compute", "parallelism.ranks=1", prefix=_namespace()
    ) as run:
        until(lambda: list(home.glob("runs/pretrain/*/metrics.jsonl")) or run.poll() is not None, "training")
        assert run.poll() is None, run.stdout and run.stdout.read()
        (first,) = psutil.Process(run.pid).children()
        first.terminate()
        output, _ = run.communicate(timeout=300)
    assert "Finished stages are kept" in output
    assert run.returncode == 143, output
    assert states(home) == ["cancelled"]
    until(lambda: not processes(home), "its processes to end")


def test_the_first_process_waits_for_orphans(home: Path, tmp_path: Path) -> None:
    late = tmp_path / "late"
    code = (
        "import subprocess, sys\nfrom nanochat.cli.signals import run_with_signals\n"
        f"shell = ['sh', '-c', '(sleep 1; touch {late}) & exit 0']\n"
        "run_with_signals(lambda: subprocess.Popen(shell).wait() or sys.exit(3))"
    )
    done = subprocess.run([*_namespace(), sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT})
    assert done.returncode == 3
    assert late.exists()
