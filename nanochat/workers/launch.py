"""torchrun in a process tree of its own: start, follow, stop.

The child reads a job file and answers with files beside it (see `nanochat.workers.job`). Its log stays in the run's
folder, and is followed by `rank_log`; its metrics are followed into the caller's progress.
"""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from nanochat import settings
from nanochat.config.base import Config
from nanochat.config.compute import Compute
from nanochat.errors import BadConfig, NoSpace, NotEnoughMemory, Preempted, StageFailed, Unexpected, from_json
from nanochat.events import Reporter
from nanochat.execution.stage import Context, NotFirstNode
from nanochat.workers.job import Job
from nanochat.workers.rank_log import PREFIX, RankLog, Tail, first_words
from nanochat.workers.rendezvous import MEET_S, meet

POLL_S = 0.1
REPORT_EVERY_S = 1.0
ORPHAN_S = 30.0
"""Longer than what `supervise` leaves training to save a checkpoint."""
KILLED = re.compile(r"exitcode\s*:\s*-9\b")
"""torchrun's report of a rank that the system killed."""
PREEMPTED = re.compile(r"exitcode\s*:\s*75\b|SignalException")
"""Of a rank that was told to stop, or of torchrun itself."""
ANSWERS = ("result.json", "error.json", "metrics.jsonl")
LAUNCHER = ("-m", "torch.distributed.run")


def launch(
    module: str, config: Config, inputs: dict[str, Path | list[Path]], out: Path, context: Context
) -> dict[str, Any]:
    """Runs a worker module to its end and returns the metrics it reports.

    Raises the worker's own typed error; `NotEnoughMemory` when the system killed it; `StageFailed` with the last line
    of its log otherwise; `NotFirstNode` when all went well and this is not the first node, which alone has the result.
    Whatever ends this call (an exception from `progress` too), no process is left behind.
    """
    compute = meet(context.checkpoints, context.compute, context.progress)
    ranks = rank_count(compute)
    threads = 1 if compute.parallelism.exact else max(1, settings.cores() // ranks)
    environment = settings.child_environment(threads, PREFIX)
    job = Job(
        module=module,
        config=config.model_dump(mode="json"),
        inputs={name: _paths(given) for name, given in inputs.items()},
        out=str(out),
        folder=str(context.folder),
        checkpoints=context.checkpoints,
        compute=compute,
    )
    path = job.write()
    for stale in ANSWERS:
        (context.folder / stale).unlink(missing_ok=True)
    log = context.folder / "log.txt"
    logs = ["--log-dir", str(context.folder / "ranks"), "--tee", "3"]  # 3: both standard streams of every rank
    command = [sys.executable, *LAUNCHER, *rendezvous(compute, ranks), *logs, "-m", module, str(path)]
    lock = context.folder.parent / f"{context.checkpoints.rpartition('/')[2] or context.folder.name}.lock"
    with log.open("ab") as file, lock.open("w") as alone:
        _await_orphan(alone, context)
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "nanochat.workers.supervisor", str(log), *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=environment,
            pass_fds=[alone.fileno()],  # the lock is the supervisor's from here on
            start_new_session=True,  # a Ctrl-C, or a kill of our process group, must not take it along
        )
    try:
        _follow(supervisor, context, module)
    finally:
        assert supervisor.stdin
        supervisor.stdin.close()  # the supervisor ends what still runs
        supervisor.wait()
        lock.unlink(missing_ok=True)
    if context.compute.parallelism.node and supervisor.returncode == 0:
        raise NotFirstNode
    return _result(context.folder, module)


def _await_orphan(alone: IO[str], context: Context) -> None:
    """Until the supervisor of a killed run has let its training save a checkpoint: that is where this one goes on."""
    until = time.monotonic() + ORPHAN_S
    while time.monotonic() < until:
        with suppress(BlockingIOError):
            return fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        context.progress.log("waiting for the checkpoint of a run that was killed")
        time.sleep(POLL_S)


def _paths(given: Path | list[Path]) -> list[str]:
    return [str(path) for path in (given if isinstance(given, list) else [given])]


def rank_count(compute: Compute) -> int:
    """Training processes on this node: as asked, else one a GPU, and one on a CPU.

    Raises `BadConfig` when GPUs are asked for that are not there.
    """
    gpus = gpu_count() if compute.parallelism.device != "cpu" else 0
    if compute.parallelism.device == "cuda" and gpus < max(1, compute.parallelism.ranks):
        raise BadConfig(
            f"`compute.parallelism.device` is `cuda`, and there are {gpus} GPUs for "
            f"{max(1, compute.parallelism.ranks)} ranks.",
            hint="Take `--compute parallelism.device=cpu`, or fewer `ranks`.",
        )
    return compute.parallelism.ranks or max(1, gpus)


def gpu_count() -> int:
    """GPUs this process may use, found without torch."""
    there = len(list(Path("/dev").glob("nvidia[0-9]*")))
    allowed = settings.child_environment(1).get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return there
    return min(there, sum(name not in ("", "-1") for name in allowed.split(",")))


def rendezvous(compute: Compute, ranks: int) -> list[str]:
    """torchrun's options for one node or several. Raises `BadConfig` when they cannot meet."""
    given = compute.parallelism
    if given.nodes == 1:
        return ["--standalone", f"--nproc-per-node={ranks}", "--max-restarts=0"]
    if not re.fullmatch(r".+:\d+", given.rendezvous):
        raise BadConfig(
            f"`compute.parallelism.nodes` is {given.nodes}, and `compute.parallelism.rendezvous` is no address.",
            hint="It is `host:port` on the first node, the same on every node; empty, the store says it.",
        )
    if given.node >= given.nodes:
        raise BadConfig(
            f"`compute.parallelism.node` is {given.node}, and there are {given.nodes} nodes, counted from 0."
        )
    host, _, port = given.rendezvous.rpartition(":")
    # not c10d: there, any node may become the one with rank 0, which has the result
    return [
        f"--nnodes={given.nodes}", f"--nproc-per-node={ranks}", "--max-restarts=0", "--rdzv-backend=static",
        f"--node-rank={given.node}", f"--master-addr={host}", f"--master-port={port}",
        f"--rdzv-conf=timeout={MEET_S:.0f}",
    ]  # fmt: skip


def _follow(supervisor: subprocess.Popen[bytes], context: Context, module: str) -> None:
    metrics, ranks = Tail(context.folder / "metrics.jsonl"), RankLog(context.folder / "log.txt")
    began, timeout_s = time.monotonic(), context.compute.supervision.timeout_s
    last: dict[str, Any] = {"message": "starting"}
    reported = 0.0
    while True:
        running = supervisor.poll() is None
        if time.monotonic() - reported > REPORT_EVERY_S:  # also when nothing is new: a sink ends training by raising
            reported = time.monotonic()
            _report(last, context.progress)
        for line in metrics.lines():
            with suppress(ValueError):  # a full disk may have cut the line
                last, reported = json.loads(line), time.monotonic()
            _report(last, context.progress)
        ranks.hand_on(last=not running)
        if not running:
            return
        if timeout_s and time.monotonic() - began > timeout_s:
            raise StageFailed(
                f"`{module}` ran longer than {timeout_s:g} s.",
                hint="Raise `--compute supervision.timeout_s=…`; training goes on from its last checkpoint.",
            )
        time.sleep(POLL_S)


def _report(line: dict[str, Any], progress: Reporter) -> None:
    """A line of `metrics.jsonl` as an event."""
    metrics = {name: value for name, value in line.items() if isinstance(value, int | float)}
    done, total = metrics.pop("done", 0), metrics.pop("total", 0)
    progress(done, total, line.get("unit", ""), line.get("message", ""), metrics)


def _answer(path: Path) -> dict[str, Any] | None:
    """What the child wrote; none when it wrote nothing, or only a part (a full disk)."""
    try:
        answer = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def _result(folder: Path, module: str) -> dict[str, Any]:
    """What the worker reported, or the error that says best why it did not."""
    result, error = _answer(folder / "result.json"), _answer(folder / "error.json")
    if result is not None and not (folder / "error.json").exists():
        return result
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace")
    said = from_json(error) if error else None
    if said and type(said) not in (StageFailed, Unexpected):
        raise said
    if KILLED.search(text):  # what the other ranks then say is its echo
        raise NotEnoughMemory(
            f"`{module}` was killed by the system, most likely for want of memory.",
            hint="Lower `--compute parallelism.micro_batch_rows=…` or `pretrain.model.depth`.",
        )
    if said:
        raise said
    if PREEMPTED.search(text):
        raise Preempted(f"`{module}` was told to stop.", hint="The same run goes on from its last checkpoint.")
    if "No space left on device" in text:
        raise NoSpace(f"No space left for `{module}`.", hint=f"Free some; `{log}` says where.")
    raise StageFailed(f"`{module}` ended without a result: {first_words(text)}.", hint=f"`{log}` has the whole story.")
