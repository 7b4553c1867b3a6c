"""What training does when a loss is no number or jumps: stop, or go back and around the bad rows."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanochat.config.training import GuardConfig, PretrainConfig
from nanochat.errors import Diverged
from nanochat.training import loop
from nanochat.training.guard import Guard
from nanochat.training.loss_scale import LossScale
from nanochat.training.pretrain import pretrain
from nanochat.workers.ranks import World
from tests.training.tiny import config, curve, job

ALONE = World(0, 1, torch.device("cpu"))


def guarded(steps: int, action: str, spike_nats: float = 3.0) -> PretrainConfig:
    guard = GuardConfig.model_validate({"action": action, "spike_nats": spike_nats})
    return config(steps).model_copy(update={"guard": guard})


def bad_at(steps: list[int], nats: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of those optimizer steps, counted over all attempts, is so many nats a token."""
    real, calls = loop.optimizer_step, count(1)

    def step(*given: object) -> Tensor:
        found = real(*given)  # type: ignore[arg-type]
        if next(calls) in steps:
            found[0] = nats * found[1]
        return found

    monkeypatch.setattr(loop, "optimizer_step", step)


@pytest.mark.parametrize(("nats", "expected"), [(float("nan"), "The loss is nan at step 15"), (40.0, "jumped")])
def test_it_stops(nats: float, expected: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad_at([15], nats, monkeypatch)
    with pytest.raises(Diverged, match=expected):
        pretrain(job(data, tmp_path, of=guarded(20, "stop")), ALONE)


@pytest.mark.parametrize("nats", [float("nan"), 40.0])
@pytest.mark.parametrize("look_every", [1, 3])
def test_it_rolls_back_and_goes_around(
    nats: float, look_every: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_at([15], nats, monkeypatch)
    address = (tmp_path / "checkpoints" / "key").as_uri()
    work = job(data, tmp_path, address, guarded(20, "roll_back"), every_s=1e-6, log_every_steps=look_every)
    pretrain(work, ALONE)
    steps = [step for step, _, _ in curve(tmp_path)]
    assert steps == sorted(set(steps)) and steps[-1] == 20  # each step once: what was taken back is not shown
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (output,) = [line for line in lines if "rolled back" in line["message"]]
    back = output["done"]
    assert 0 < back <= 14  # checkpoints are written in the background, and at every step if the machine is idle
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    skipped = last["rows_consumed"] // 8 - 20
    assert skipped == -(-15 // look_every) * look_every - back  # the rows from there to behind the bad batch


def test_it_gives_up(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        bad_at(list(range(12, 40)), float("nan"), patch)
        with pytest.raises(Diverged, match="no checkpoint yet"):
            pretrain(job(data, tmp_path / "none", of=guarded(20, "roll_back")), ALONE)
    bad_at(list(range(12, 40)), float("nan"), monkeypatch)
    address = (tmp_path / "checkpoints" / "key").as_uri()
    work = job(data, tmp_path / "some", address, guarded(20, "roll_back"), every_s=1e-6)
    with pytest.raises(Diverged, match="The loss is nan"):
        pretrain(work, ALONE)


def test_a_spike_is_measured_from_the_smoothed_loss_and_can_be_allowed() -> None:
    guard = Guard(GuardConfig(spike_nats=1.0))
    guard.check(11, 3.9, 1.0, 3.0)
    guard.check(5, 9.0, 1.0, 3.0)  # too early to tell
    with pytest.raises(Diverged, match=r"from 3\.00 to 4\.10 at step 11"):
        guard.check(11, 4.1, 1.0, 3.0)
    with pytest.raises(Diverged, match="The gradient is inf"):
        guard.check(11, 3.0, float("inf"), 3.0)
    Guard(GuardConfig(spike_nats=0)).check(11, 400.0, 1.0, 3.0)


def test_looking_less_often_changes_nothing_but_the_lines(data: Path, tmp_path: Path) -> None:
    for every in (1, 4):
        pretrain(job(data, tmp_path / str(every), log_every_steps=every), ALONE)
    often, seldom = curve(tmp_path / "1"), curve(tmp_path / "4")
    assert [step for step, _, _ in seldom] == [4, 5, 8, 10, 12]  # and where it was evaluated
    assert [point for point in often if point[0] in (4, 5, 8, 10, 12)] == seldom
    smooth = [
        json.loads((tmp_path / every / "out" / "metrics.jsonl").read_text().splitlines()[-1])["smoothed_loss"]
        for every in ("1", "4")
    ]
    assert smooth[0] == smooth[1]


def test_the_loss_scale_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    for name in ("__bool__", "__float__"):
        read = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda each, n=name, read=read: reads.append(n) or read(each))
    assert LossScale(4.0).accepts([torch.ones(3), None, torch.ones(2, 2), torch.zeros(1)])
    assert LossScale(4.0).accepts([None])
    assert len(reads) == 1


def test_the_loss_scale_halves_on_overflow_and_gives_up_at_last() -> None:
    scale = LossScale(4.0)
    assert scale.accepts([torch.ones(2), None])
    assert not scale.accepts([torch.ones(2), torch.tensor([torch.inf])])
    assert scale.factor == 2.0
    with pytest.raises(Diverged, match="at any loss scale"):
        for _ in range(30):
            scale.accepts([torch.tensor([torch.nan])])


def test_fp16_trains_and_skips_what_overflows(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.training.loss_scale.START", 2.0**40)
    monkeypatch.setattr(LossScale.__init__, "__defaults__", (2.0**40,))
    pretrain(job(data, tmp_path, of=config(40).model_copy(update={"precision": "fp16"})), ALONE)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss_scale"] < lines[0]["loss_scale"] < 2.0**40  # it began far too high
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.1
