"""Checkpoints: whole or not at all, the newest whole one is taken, any number of ranks goes on from it."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

import pytest
import torch

from nanochat.ranks import Preempted, World
from nanochat.training import loop
from nanochat.training.checkpoint import Checkpoints
from nanochat.training.pretrain import pretrain
from tests.training.tiny import curve, job, launched, make_data

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def saved(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints((folder / "checkpoints" / "key").as_uri(), folder / "spool", keep)
    for step in steps:
        tensors = {"weight": torch.full((3,), float(step))}
        checkpoints.save(step, 8 * step, tensors, tensors, {"seconds": step / 2}, [f"line {step}"])
        tensors["weight"].fill_(-1)  # training goes on at once
    checkpoints.wait()
    return checkpoints


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints" / "key").iterdir())


def test_the_newest_are_kept_and_found(tmp_path: Path) -> None:
    found = saved(tmp_path, 1, 2, 10).newest()
    assert folders(tmp_path) == ["step-00000002", "step-00000010"]
    assert found is not None
    assert (found.step, found.rows_consumed, found.metrics) == (10, 80, ["line 10"])
    assert found.model["weight"].tolist() == [10.0] * 3


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert saved(tmp_path).newest() is None
    assert Checkpoints("", tmp_path, 2).newest() is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "record", "unfinished"])
def test_a_damaged_one_is_skipped_and_said(damage: str, tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    newest = tmp_path / "checkpoints" / "key" / "step-00000002"
    file = newest / "optimizer.safetensors"
    match damage:
        case "flipped":
            file.write_bytes(file.read_bytes()[:-1] + b"\x07")
        case "cut":
            file.write_bytes(file.read_bytes()[:-5])
        case "gone":
            file.unlink()
        case "record":
            (newest / "manifest.json").write_text('{"step": 2')
        case "unfinished":
            (newest / "manifest.json").unlink()
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1
    assert bool(checkpoints.warnings) == (damage != "unfinished")
    assert all("step 2 skipped" in warning for warning in checkpoints.warnings)


def test_a_full_disk_under_the_spool_is_raised(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="spool"):
        saved(tmp_path, 1)


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = count(1)
    monkeypatch.setattr(loop, "stop_requested", lambda: next(asked) == steps)


def test_told_to_stop_it_saves_and_goes_on_here_or_on_other_ranks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(job(data, tmp_path / "whole"), ALONE)
    address = (tmp_path / "checkpoints" / "key").as_uri()
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(Preempted):
            pretrain(job(data, tmp_path / "stopped", address), ALONE)
    copy = tmp_path / "copy" / "key"
    shutil.copytree(tmp_path / "checkpoints" / "key", copy)
    assert pretrain(job(data, tmp_path / "here", copy.as_uri()), ALONE)["resumed_from_step"] == 7
    assert curve(tmp_path / "here") == curve(tmp_path / "whole")
    again = launched(data, tmp_path / "again", address, ranks=2)
    assert (again["resumed_from_step"], again["world_size"]) == (7, 2)
    whole, resumed = curve(tmp_path / "whole"), curve(tmp_path / "again")
    assert resumed[:7] == whole[:7]
    assert [loss for _, loss, _ in resumed] == pytest.approx([loss for _, loss, _ in whole], abs=2e-3)


def test_a_failure_in_the_last_evaluation_costs_no_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(job(data, tmp_path / "whole"), ALONE)
    address = (tmp_path / "checkpoints" / "key").as_uri()
    evaluated, calls = loop._Training._evaluated, count(1)

    def fails_at_the_end(*given) -> float:
        if next(calls) == 3:
            raise ValueError("evaluation broke")
        return evaluated(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_evaluated", fails_at_the_end)
        with pytest.raises(ValueError, match="evaluation broke"):
            pretrain(job(data, tmp_path / "broke", address), ALONE)
    again = pretrain(job(data, tmp_path / "again", address), ALONE)
    assert again["resumed_from_step"] == 12
    assert curve(tmp_path / "again") == curve(tmp_path / "whole")
