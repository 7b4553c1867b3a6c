"""Training that was stopped goes on where it was, here or on other ranks; a failed evaluation costs no step."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

import pytest
import torch

from nanochat.events import Event, Reporter
from nanochat.training import loop
from nanochat.training.pretrain import pretrain
from nanochat.workers.ranks import Preempted, World
from tests.clock import JumpingClock
from tests.training.tiny import curve, job, launched

ALONE = World(0, 1, torch.device("cpu"))


pytestmark = pytest.mark.usefixtures("one_thread")


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = count(1)
    monkeypatch.setattr(loop, "stop_requested", lambda: next(queries) == steps)


def test_on_a_stop_request_it_saves_and_resumes_here_or_on_other_ranks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where sums are exact, to the bit on both."""
    pretrain(job(data, tmp_path / "whole", exact=True), ALONE)
    address = (tmp_path / "checkpoints" / "key").as_uri()
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(Preempted):
            pretrain(job(data, tmp_path / "stopped", address, exact=True), ALONE)
    copy = tmp_path / "copy" / "key"
    shutil.copytree(tmp_path / "checkpoints" / "key", copy)
    assert pretrain(job(data, tmp_path / "here", copy.as_uri(), exact=True), ALONE)["resumed_from_step"] == 7
    assert curve(tmp_path / "here") == curve(tmp_path / "whole")
    again = launched(data, tmp_path / "again", address, ranks=4, exact=True)
    assert (again["resumed_from_step"], again["world_size"]) == (7, 4)
    assert curve(tmp_path / "again") == curve(tmp_path / "whole")


def test_a_failure_in_the_last_evaluation_costs_no_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(job(data, tmp_path / "whole"), ALONE)
    address = (tmp_path / "checkpoints" / "key").as_uri()
    evaluate, calls = loop._Loop._evaluate, count(1)

    def fails_at_the_end(*given) -> float:
        if next(calls) == 3:
            raise ValueError("evaluation broke")
        return evaluate(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_evaluate", fails_at_the_end)
        with pytest.raises(ValueError, match="evaluation broke"):
            pretrain(job(data, tmp_path / "broke", address), ALONE)
    again = pretrain(job(data, tmp_path / "again", address), ALONE)
    assert again["resumed_from_step"] == 12
    assert curve(tmp_path / "again") == curve(tmp_path / "whole")


def test_a_wall_clock_that_jumps_changes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = JumpingClock(tmp_path)
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    jumps = {2: 3600, 6: -3600, 9: 0}

    def jump(event: Event) -> None:
        if int(event.done) in jumps:
            clock.jump_to(jumps[int(event.done)])

    url = (tmp_path / "checkpoints" / "key").as_uri()
    how = {"ranks": 2, "exact": True, "every_s": 0.01, "timeout_s": 300}
    launched(data, tmp_path / "jumped", url, progress=Reporter(sinks=(jump,)), **how)
    monkeypatch.undo()
    pretrain(job(data, tmp_path / "whole", exact=True), ALONE)
    assert curve(tmp_path / "jumped") == curve(tmp_path / "whole")
