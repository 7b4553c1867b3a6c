"""Checkpoints: whole or not at all, the newest whole one is taken, any number of ranks reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nanochat.errors import (
    DamagedArtifact,
    NanochatError,
    NewerFormat,
    NoSpace,
    StoreError,
    StoreUnreachable,
    SystemRefused,
)
from nanochat.training.checkpoint import TRIES, Checkpoints, copy_through
from tests.training.saver import checkpoints, equal, state

ROOT = Path(__file__).parents[2]


def saved(folder: Path, *steps: int, **kept: int) -> Checkpoints:
    made = checkpoints(folder, **kept)
    tensor = torch.zeros(3)
    for step in steps:
        tensor.fill_(step)
        made.save(step, 8 * step, {"weight": tensor}, {"seconds": step / 2}, [f"line {step}"])
        tensor.fill_(-1)  # training goes on at once
    made.wait(must=True)
    return made


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (folder / "checkpoints" / "key").iterdir())


def test_the_newest_are_kept_and_found(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 10)
    assert steps(tmp_path) == [2, 10]
    weight = torch.zeros(3)
    found = checkpoints(tmp_path).resume({"weight": weight})
    assert found is not None
    assert (found.step, found.rows_consumed, found.metrics, found.numbers) == (10, 80, ["line 10"], {"seconds": 5.0})
    assert weight.tolist() == [10.0] * 3
    local = [path for path in tmp_path.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
    assert not local, "something local is left"


def test_every_fifth_stays(tmp_path: Path) -> None:
    saved(tmp_path, 1, 5, 10, 11, 12, keep=1, keep_every_steps=5)
    assert steps(tmp_path) == [5, 10, 12]


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert saved(tmp_path).resume({"weight": torch.zeros(3)}) is None
    assert Checkpoints("", tmp_path, 2).resume({"weight": torch.zeros(3)}) is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "record", "empty", "unfinished"])
def test_a_damaged_checkpoint_is_skipped_and_reported(damage: str, tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (newest,) = (tmp_path / "checkpoints" / "key").glob("step-00000002-*")
    (file,) = newest.glob("*.safetensors")
    match damage:
        case "flipped":
            file.write_bytes(file.read_bytes()[:-1] + b"\x07")
        case "cut":
            file.write_bytes(file.read_bytes()[:-5])
        case "gone":
            file.unlink()
        case "record":
            (newest / "manifest.json").write_text('{"step": 2')
        case "empty":
            (newest / "manifest.json").write_text("[]")
        case "unfinished":
            (newest / "manifest.json").unlink()
    weight, found = torch.zeros(3), checkpoints(tmp_path)
    resumed = found.resume({"weight": weight})
    assert resumed is not None
    assert (resumed.step, weight.tolist()) == (1, [1.0] * 3)
    assert bool(found.warnings) == (damage != "unfinished")
    assert all("step-00000002" in warning and "skipped" in warning for warning in found.warnings)


def test_damaged_ones_do_not_crowd_out_new_ones(tmp_path: Path) -> None:
    saved(tmp_path, 8, 9)
    for file in (tmp_path / "checkpoints").rglob("*.safetensors"):
        file.write_bytes(b"nonsense")
    begun_anew = checkpoints(tmp_path)
    assert begun_anew.resume({"weight": torch.zeros(3)}) is None
    for step in (1, 2):
        begun_anew.save(step, step, {"weight": torch.zeros(3)}, {}, [])
    begun_anew.wait(must=True)
    assert steps(tmp_path) == [1, 2]


def test_what_could_not_be_saved_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = checkpoints(tmp_path)

    def refused(*given: Any) -> None:
        raise NoSpace("The store is full.")

    with monkeypatch.context() as patch:
        patch.setattr(made, "_put", refused)
        made.save(1, 8, {"weight": torch.zeros(3)}, {}, [])
        made.wait()
    assert steps(tmp_path) == [1], "without its manifest"
    made.save(2, 16, {"weight": torch.zeros(3)}, {}, [])
    made.wait(must=True)
    assert steps(tmp_path) == [2]


def test_old_ones_that_cannot_be_removed_cost_no_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = saved(tmp_path, 1, 2)
    assert made._objects

    def refused(*given: Any) -> None:
        raise StoreError("You may not delete.")

    monkeypatch.setattr(made._objects, "delete", refused)
    for step in range(3, 8):
        made.save(step, step, {"weight": torch.zeros(3)}, {}, [])
    made.wait(must=True)
    assert made.warnings == ["old checkpoints could not be removed: You may not delete."] * 5


def test_a_slow_save_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.training.checkpoint.SLOW_SAVE_S", 0.0)
    made, go_on = checkpoints(tmp_path), threading.Event()
    monkeypatch.setattr(made, "_put", lambda *given: go_on.wait())
    made.save(1, 8, {"weight": torch.zeros(3)}, {}, [])
    assert made.busy()
    assert made.busy()
    go_on.set()
    made.wait(must=True)
    assert made.warnings == ["saving a checkpoint takes more than 0 min; training continues"]


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    for other in ({"another": torch.zeros(3)}, {"weight": torch.zeros(4)}):
        with pytest.raises(DamagedArtifact, match="at step 1 does not fit the model"):
            checkpoints(tmp_path).resume(other)


def test_a_save_that_fails_is_a_warning_and_the_third_in_a_row_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    made = checkpoints(tmp_path)
    with pytest.raises(StoreError, match="cannot be written"):
        for step in range(1, 9):
            made.save(step, step, {"weight": torch.zeros(3)}, {}, [])
    assert step == 4
    assert len(made.warnings) == 2
    assert all("training continues" in warning for warning in made.warnings)


def away(
    made: Checkpoints,
    monkeypatch: pytest.MonkeyPatch,
    answers: Iterator[bool],
    error: type[NanochatError] = StoreUnreachable,
) -> None:
    """The store takes the next upload, or does not."""
    assert made._objects
    upload = made._objects.upload

    def answered(*given: Any, **named: Any) -> None:
        if not next(answers):
            raise error("The store does not take it.")
        upload(*given, **named)

    monkeypatch.setattr(made._objects, "upload", answered)
    monkeypatch.setattr("nanochat.sources.retry.time.sleep", lambda _: None)


def test_a_store_that_is_away_for_a_while_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = checkpoints(tmp_path)
    away(made, monkeypatch, iter([False, False, True]))
    made.save(1, 8, {"weight": torch.ones(3)}, {}, [])
    made.wait(must=True)
    assert steps(tmp_path) == [1]


def test_a_save_that_succeeds_starts_the_count_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = checkpoints(tmp_path)
    away(made, monkeypatch, iter([False, False, True] * 3), NoSpace)
    for step in range(1, 10):
        made.save(step, step, {"weight": torch.zeros(3)}, {}, [])
    made.wait()
    assert len(made.warnings) == 6
    assert steps(tmp_path) == [6, 9]


def test_a_store_that_stays_away_ends_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = checkpoints(tmp_path)
    away(made, monkeypatch, iter([*[False] * 4 * TRIES, True]))
    for step in range(1, 6):
        made.save(step, step, {"weight": torch.zeros(3)}, {}, [])
    made.wait()
    assert len(made.warnings) == 4
    assert steps(tmp_path) == [5]


def test_a_spool_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "spool-0").write_text("a file where a folder should be")
    with pytest.raises(SystemRefused, match=r"A checkpoint in `.*spool-0.*"):
        saved(tmp_path, 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "spool-0"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("a disk of 64 kB can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_costs_no_older_checkpoint(small_disk: Path, tmp_path: Path) -> None:
    made = saved(tmp_path, 1)
    made.save(2, 16, {"weight": torch.zeros(100_000)}, {}, [])
    with pytest.raises(NoSpace, match="No space left for a checkpoint"):
        made.wait(must=True)
    assert not list(small_disk.iterdir())
    assert steps(tmp_path) == [1]
    assert checkpoints(tmp_path).resume({"weight": torch.zeros(3)}) is not None


@pytest.mark.parametrize("stage_bytes", [1, 64, 1 << 20])
def test_tensors_of_any_size_pass_through_the_stage(stage_bytes: int) -> None:
    for source in (torch.randn(5, 7).bfloat16(), torch.tensor(3.0), torch.zeros(0), torch.arange(100)):
        target = torch.empty_like(source)
        copy_through(torch.empty(stage_bytes, dtype=torch.uint8), source, target)
        assert torch.equal(target, source)


def test_ranks_share_what_all_of_them_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [state(rank, 4) for rank in range(4)]
    parts = []
    for rank in range(4):
        made = checkpoints(tmp_path, rank)
        for name, value in {
            "_group": object(),
            "_rank": rank,
            "_all": lambda mine: [list(each) for each in given],
        }.items():
            monkeypatch.setattr(made, name, value)
        parts.append(set(made._part_of_rank(given[rank])))
    for name in set().union(*given):
        holders = [rank for rank in range(4) if name in given[rank]]
        assert [rank for rank in range(4) if name in parts[rank]] == (
            holders if name == "optimizer.table" else [rank for rank in holders if name in parts[rank]][:1]
        )
        assert any(name in part for part in parts)
    assert sorted(sum(name.startswith("model.") for name in part) for part in parts) == [1, 1, 2, 2]


def under_torchrun(ranks: int, folder: Path, *what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m",
         "tests.training.saver", str(folder), *what],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_any_number_of_ranks_reads_what_others_saved(tmp_path: Path) -> None:
    under_torchrun(3, tmp_path, "save")
    (newest,) = (tmp_path / "checkpoints" / "key").glob("step-00000002-*")
    sizes = [path.stat().st_size for path in newest.glob("*.safetensors")]
    assert len(sizes) == 3, "each rank writes its part"
    assert max(sizes) < 0.5 * sum(sizes), "what all have is written once"
    filled = state(0, 1, empty=True)
    resumed = checkpoints(tmp_path).resume(filled)
    assert resumed is not None
    assert equal(filled, state(0, 1))
    under_torchrun(2, tmp_path, "resume")
    answers = [json.loads((tmp_path / f"answer-2-{rank}.json").read_text()) for rank in range(2)]
    assert answers == [[2, True, []]] * 2


def test_damage_that_one_rank_meets_all_ranks_skip(tmp_path: Path) -> None:
    under_torchrun(2, tmp_path, "save")
    (newest,) = (tmp_path / "checkpoints" / "key").glob("step-00000002-*")
    file = max(newest.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    under_torchrun(2, tmp_path, "resume")
    for rank in range(2):
        step, right, warnings = json.loads((tmp_path / f"answer-2-{rank}.json").read_text())
        assert (step, right) == (1, True)
        assert "damaged" in warnings[0]


def test_a_shard_is_a_safetensors_file_whatever_lies_in_it(tmp_path: Path) -> None:
    given = {
        "half": torch.arange(5.0).to(torch.bfloat16),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "large": torch.randn(700, 1000),
    }
    made = checkpoints(tmp_path)
    made.save(1, 8, given, {}, [])
    made.wait(must=True)
    (shard,) = (tmp_path / "checkpoints").rglob("*.safetensors")
    assert equal(load_file(shard), given)
    filled = {name: torch.zeros_like(tensor) for name, tensor in given.items()}
    assert checkpoints(tmp_path).resume(filled) is not None
    assert equal(filled, given)


def test_the_copy_reuses_its_memory(tmp_path: Path) -> None:
    made, tensor = checkpoints(tmp_path), torch.zeros(3)
    made.save(1, 8, {"weight": tensor}, {}, [])
    made.wait(must=True)
    held = made._host["weight"].data_ptr()
    made.save(2, 16, {"weight": tensor}, {}, [])
    made.wait(must=True)
    assert made._host["weight"].data_ptr() == held


@pytest.mark.parametrize("fails", ["list", "read", "download"])
def test_a_store_that_refuses_is_no_reason_to_begin_anew(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1, 2)
    found = checkpoints(tmp_path)
    assert found._objects is not None

    def refuse(*_: Any, **__: Any) -> None:
        raise StoreError("Permission denied.")

    with monkeypatch.context() as patch:
        patch.setattr(found._objects.backend, fails, refuse)
        with pytest.raises(StoreError, match="Permission denied"):
            found.resume({"weight": torch.zeros(3)})
    found.save(3, 3, {"weight": torch.zeros(3)}, {}, [])
    found.wait(must=True)
    assert steps(tmp_path) == [2, 3], "only what is old went"


def test_a_newer_format_is_refused_and_stays(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (record,) = (tmp_path / "checkpoints").rglob("manifest.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "format": 3}))
    with pytest.raises(NewerFormat, match="written by a newer version"):
        checkpoints(tmp_path).resume({"weight": torch.zeros(3)})
    assert record.exists()


@pytest.mark.parametrize("leaves_out", ["manifest.json", "step-00000003", "safetensors", ""])
def test_a_listing_that_leaves_something_out_costs_no_whole_checkpoint(
    leaves_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = saved(tmp_path, 1, 2)
    assert made._objects is not None
    listing = made._objects.backend.list

    def short(*given: Any, **more: Any) -> list[Any]:
        return [each for each in listing(*given, **more) if leaves_out not in each.path]

    with monkeypatch.context() as patch:
        patch.setattr(made._objects.backend, "list", short)
        made.save(3, 3, {"weight": torch.zeros(3)}, {}, [])
        made.wait(must=True)
    assert steps(tmp_path)[-2:] == [2, 3]
    found = checkpoints(tmp_path).resume({"weight": torch.zeros(3)})
    assert found is not None
    assert found.step == 3


def test_files_of_others_beside_checkpoints_do_no_harm(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (folder,) = (tmp_path / "checkpoints/key").iterdir()
    for place in (folder, folder.parent):
        (place / ".DS_Store").write_bytes(b"")
        (place / "notes.txt").write_bytes(b"")
        (place / "manifest.json~").write_bytes(b"")
    saved(tmp_path, 2, 3)
    found = checkpoints(tmp_path).resume({"weight": torch.zeros(3)})
    assert found is not None
    assert found.step == 3
