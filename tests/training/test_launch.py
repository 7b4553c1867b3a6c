"""Real torchrun: the result of a worker, and each way it can fail."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanochat.errors import (
    BadConfig,
    BadSource,
    NanochatError,
    NoSpace,
    NotEnoughMemory,
    Preempted,
    StageFailed,
    Unexpected,
)
from nanochat.events import Event, Reporter
from nanochat.workers.launch import launch, rank_count, torchrun_options
from nanochat.workers.rank_log import describe_failure
from tests.compute import compute
from tests.training.tiny import context
from tests.training.worker import Orders

WORKER = "tests.training.worker"


def go(orders: str, folder: Path, **around: Any) -> dict[str, Any]:
    return launch(WORKER, Orders(orders=orders), {}, folder / "out", context(folder, **around))


def test_two_ranks_answer_from_any_thread_and_are_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "nanochat.workers.ranks")
    seen: list[tuple[float, float, str, float | None]] = []
    answers: list[dict[str, Any]] = []

    def see(event: Event) -> None:
        seen.append((event.done, event.total, event.message, event.metrics.get("loss")))

    progress = Reporter(sinks=(see,))
    thread = threading.Thread(target=lambda: answers.append(go("answer", tmp_path, progress=progress, ranks=2)))
    thread.start()
    thread.join()
    assert answers[0]["world_size"] == 2
    assert (1, 2, "half", 3.5) in seen
    assert seen[-1][:2] == (2, 2)
    output = [record.getMessage() for record in caplog.records if record.name == "nanochat.workers.ranks"]
    assert {"[rank 0] here is rank 0", "[rank 1] here is rank 1"} <= set(output)
    assert len(output) < 500
    assert output[-1].endswith(f"more lines of the ranks are in `{tmp_path / 'log.txt'}`")


@pytest.mark.parametrize(
    ("orders", "error", "expected"),
    [
        ("typed", BadSource, "`rows` is empty. Fill it."),
        ("break", Unexpected, "ValueError: three is not four"),
        ("full", NoSpace, "/a/disk"),
        ("killed", NotEnoughMemory, "micro_batch_rows"),
    ],
)
def test_a_worker_that_fails_raises_its_error(
    orders: str, error: type[NanochatError], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as raised:
        go(orders, tmp_path)
    assert type(raised.value) is error
    assert expected in str(raised.value)


def test_a_module_that_is_not_there_is_named_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"No module named .*nowhere") as raised:
        launch("tests.training.nowhere", Orders(orders="x"), {}, tmp_path / "out", context(tmp_path))
    assert "log.txt" in raised.value.hint


def test_a_timeout_ends_everything(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="ran longer than 6 s"):
        go("sleep", tmp_path, timeout_s=6, ranks=2)
    assert not of_job(tmp_path)


def test_a_rank_that_hangs_ends_all_and_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(
        StageFailed, match=r"Rank 1 made no progress for .* `worker\.py` line \d+: `time\.sleep\(600\)`"
    ):
        go("hang", tmp_path, ranks=2, watchdog_timeout_s=2)
    assert not of_job(tmp_path)
    assert "[rank 1] hangs:" in (tmp_path / "log.txt").read_text()


def test_an_exception_in_the_parent_ends_everything(tmp_path: Path) -> None:
    began = time.monotonic()

    def interrupt(_: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go("sleep", tmp_path, progress=Reporter(sinks=(interrupt,)))
    assert time.monotonic() - began < 25
    assert not of_job(tmp_path)


def test_what_a_killed_run_left_behind_ends_before_the_next_begins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    code = f"from tests.training.test_launch import *; go('sleep', Path({str(first)!r}), checkpoints='file:///s/key')"
    with subprocess.Popen([sys.executable, "-c", code]) as killed:
        deadline = time.monotonic() + 60
        while not any(is_torchrun(process) and process.children() for process in of_job(first)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        killed.kill()
    left: list[list[psutil.Process]] = []

    def look(event: Event) -> None:
        if event.message != "waiting for the checkpoint of a run that was killed":
            left.append(of_job(first))

    progress = Reporter(sinks=(look,))
    assert go("answer", second, progress=progress, checkpoints="file:///s/key")["world_size"] == 1
    assert left
    assert not any(left)
    assert not (tmp_path / "key.lock").exists()


def test_torchrun_that_is_terminated_may_be_started_again(tmp_path: Path) -> None:
    failed: list[NanochatError] = []

    def run() -> None:
        try:
            go("sleep", tmp_path)
        except NanochatError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 60
    while not (workers := [p for p in of_job(tmp_path) if is_torchrun(p) and p.children()]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(3)  # until its handlers are there
    workers[0].terminate()
    thread.join()
    assert isinstance(failed[0], Preempted)
    assert failed[0].transient


def test_what_cannot_be_started_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"compute\.parallelism\.rendezvous"):
        torchrun_options(compute(nodes=2), 1)
    with pytest.raises(BadConfig, match=r"`compute\.parallelism\.node` is 2, but there are 2"):
        torchrun_options(compute(nodes=2, rendezvous="a:1", node=2), 1)
    assert "--nnodes=2" in torchrun_options(compute(nodes=2, rendezvous="a:1"), 1)
    assert rank_count(compute(device="cpu")) == 1
    assert rank_count(compute(device="cpu", ranks=3)) == 3


def test_no_gpu_is_reported_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BadConfig, match="0 GPUs"):
        rank_count(compute(device="cuda"))


def test_a_failure_is_described_by_its_signal_else_by_the_rank_that_failed_first() -> None:
    ranks = (
        "[rank 1] [rank1]: ImportError: no x\n[rank 1] and more\n[rank 0] RuntimeError: Connection closed by peer.\n"
    )
    assert describe_failure(ranks, {"0": 1, "1": 1}) == "[rank 1] ImportError: no x"
    assert describe_failure(ranks, {"0": -15, "1": 1}) == "[rank 1] ImportError: no x"
    assert describe_failure(ranks, {"0": 1, "1": -11}) == "rank 1: Segmentation fault (signal 11)"
    assert describe_failure("[rank 0] No module named y.\nChildFailedError:", {"0": 1}) == "[rank 0] No module named y"
    assert describe_failure("ChildFailedError:", {"1": 3}) == "rank 1: exit code 3"
    assert describe_failure("Traceback\nValueError: no such option\n", {}) == "ValueError: no such option"
    assert describe_failure("", {}) == "its log is empty"


def is_torchrun(process: psutil.Process) -> bool:
    return "nanochat.workers.torchrun" in process.cmdline() and "nanochat.workers.supervisor" not in process.cmdline()


def of_job(folder: Path) -> list[psutil.Process]:
    """Processes whose command line names the job."""
    named = []
    for process in psutil.process_iter(["cmdline"]):
        if str(folder / "job.json") in (process.info["cmdline"] or []):
            named.append(process)
    return named


@pytest.mark.parametrize("text", ["", '{"loss": 1', "[]", "null", "\x00\x00"])
def test_an_answer_that_was_not_written_whole_counts_as_none(tmp_path: Path, text: str) -> None:
    """The rank was killed, or its disk was full: its log shows that, and no traceback of ours."""
    from nanochat.workers.launch import _result

    (tmp_path / "log.txt").write_text("[rank 0] OSError: [Errno 28] No space left on device\n")
    for name in ("result.json", "error.json"):
        (tmp_path / name).write_text(text)
        with pytest.raises(NoSpace):
            _result(tmp_path, WORKER)
