"""When the parent, the supervisor or torchrun is killed, no process of the run is left soon after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.training.tiny import make_data
from tests.waiting import until

ROOT = Path(__file__).parents[2]
LONG = 1_000_000
WITHIN_S = 120
"""The processes that remain would run for hours."""


def start(command: list[str], sign: Path) -> tuple[psutil.Popen, list[psutil.Process]]:
    """The parent, and its family: supervisor, torchrun, two ranks; once the ranks have written a file."""
    parent = psutil.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.DEVNULL)
    until(lambda: parent.poll() is not None or (sign.exists() and sign.stat().st_size), "the ranks")
    assert parent.poll() is None
    family = parent.children(recursive=True)
    assert len(family) == 4, family
    return parent, family


def all_end(family: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(family, timeout=WITHIN_S)
    for process in alive:
        process.kill()
    return not alive


@pytest.mark.kills
@pytest.mark.parametrize("killed", ["parent", "supervisor", "torchrun"])
def test_no_process_outlives_the_one_it_works_for(killed: str, tmp_path: Path) -> None:
    data, folder = make_data(tmp_path / "data"), tmp_path / "run"
    parent, family = start(
        ["-m", "tests.training.tiny", str(data), str(folder), "2", str(LONG)], folder / "metrics.jsonl"
    )
    victim = {"parent": parent, "supervisor": family[0], "torchrun": family[1]}[killed]
    victim.kill()
    assert all_end(family)
    parent.wait()
    assert killed == "parent" or parent.returncode == 1
    if killed == "parent":  # there was time to save
        assert list((data / "checkpoints").glob("*/*/manifest.json"))


@pytest.mark.kills
def test_ranks_that_ignore_signals_are_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = (
        "from pathlib import Path; from nanochat.workers.launch import launch; from tests.training.tiny import context;"
        "from tests.training.worker import Orders;"
        f"folder = Path({str(folder)!r});"
        "launch('tests.training.worker', Orders(orders='stubborn'), {}, folder / 'out', context(folder, ranks=2))"
    )
    parent, family = start(["-c", code], folder / "stubborn")
    parent.kill()
    assert all_end(family)
    parent.wait()
