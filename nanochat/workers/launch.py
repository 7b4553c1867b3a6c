"""Starts torchrun in a process tree of its own, follows it, and ends it.

The workers read a job file and write files beside it (see `job`). `rank_log` follows their log, which stays in the
run's folder; their metrics become the caller's progress.
"""

import fcntl  # and not filelock: the supervisor inherits the locked file
import json
import re
import signal
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
from nanochat.workers.rank_log import LINE_PREFIX, RankLog, Tail, describe_failure
from nanochat.workers.rendezvous import (
    RENDEZVOUS_TIMEOUT_S,
    PeerFailures,
    interface_variables,
    peer_failures,
    resolve_rendezvous,
    split_address,
)

POLL_S = 0.1
REPORT_EVERY_S = 1.0
ORPHAN_TIMEOUT_S = 30.0
"""Longer than the supervisor's grace period, in which training saves a checkpoint."""
FAILURES = "failures.json"
OUTPUTS = ("result.json", "error.json", "metrics.jsonl", FAILURES)
LAUNCHER = ("-m", "nanochat.workers.torchrun")


def launch(
    module: str, config: Config, inputs: dict[str, Path | list[Path]], out: Path, context: Context
) -> dict[str, Any]:
    """Runs a worker module to its end and returns the metrics of its `result.json`.

    Raises the worker's typed error; `NotEnoughMemory` when the system killed a rank; `Preempted` after a TERM; else
    `StageFailed` with the failure of another node, or with a line of the log. Raises `NotFirstNode` when the work is
    done, but the first node has the result. However this call ends (also by an exception from `progress`), it leaves no
    process behind.
    """
    with peer_failures(context.checkpoints, context.compute) as peers:
        return _launch(module, config, inputs, out, context, peers)


def _launch(
    module: str, config: Config, inputs: dict[str, Path | list[Path]], out: Path, context: Context, peers: PeerFailures
) -> dict[str, Any]:
    compute = resolve_rendezvous(context.checkpoints, context.compute, context.progress)
    ranks = rank_count(compute)
    threads = 1 if compute.parallelism.exact else max(1, settings.cores() // ranks)
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
    for stale in OUTPUTS:
        (context.folder / stale).unlink(missing_ok=True)
    log = context.folder / "log.txt"
    logs = ["--log-dir", str(context.folder / "ranks"), "--tee", "3"]  # 3: both standard streams of every rank
    options = [*torchrun_options(compute, ranks), *logs, "-m", module, str(path)]
    command = [sys.executable, *LAUNCHER, str(context.folder / FAILURES), *options]
    environment = {**interface_variables(compute), **settings.child_environment(threads, LINE_PREFIX)}
    lock = context.folder.parent / f"{context.checkpoints.rpartition('/')[2] or context.folder.name}.lock"
    with log.open("ab") as file, lock.open("w") as locked:
        _await_orphan(locked, context)
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "nanochat.workers.supervisor", str(log), *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=environment,
            pass_fds=[locked.fileno()],  # the supervisor holds the lock from here on
            start_new_session=True,  # a Ctrl-C, or a kill of our process group, must not reach it
        )
    try:
        _follow(supervisor, context, module, peers)
    finally:
        assert supervisor.stdin
        supervisor.stdin.close()  # the supervisor ends the processes that still run
        supervisor.wait()
        lock.unlink(missing_ok=True)
    if context.compute.parallelism.node and supervisor.returncode == 0:
        raise NotFirstNode
    return _result(context.folder, module)


def _await_orphan(locked: IO[str], context: Context) -> None:
    """Waits while the ranks of a killed run with the same key save a checkpoint, from which this run resumes."""
    deadline = time.monotonic() + ORPHAN_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            return fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        context.progress.log("waiting for the checkpoint of a run that was killed")
        time.sleep(POLL_S)


def _paths(given: Path | list[Path]) -> list[str]:
    return [str(path) for path in (given if isinstance(given, list) else [given])]


def rank_count(compute: Compute) -> int:
    """Training processes on this node: `parallelism.ranks`, else one per GPU, or one on a CPU.

    Raises `BadConfig` when there are fewer GPUs than ranks.
    """
    gpus = gpu_count() if compute.parallelism.device != "cpu" else 0
    if compute.parallelism.device == "cuda" and gpus < max(1, compute.parallelism.ranks):
        raise BadConfig(
            f"`compute.parallelism.device` is `cuda`, but there are {gpus} GPUs for "
            f"{max(1, compute.parallelism.ranks)} ranks.",
            hint="Set `--compute parallelism.device=cpu`, or fewer `ranks`.",
        )
    return compute.parallelism.ranks or max(1, gpus)


def gpu_count() -> int:
    """Number of GPUs this process may use, found without torch."""
    devices = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = settings.child_environment(1).get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return devices
    return min(devices, sum(name not in ("", "-1") for name in visible.split(",")))


def torchrun_options(compute: Compute, ranks: int) -> list[str]:
    """torchrun's options for one node or several. Raises `BadConfig` without a valid rendezvous or node number."""
    given = compute.parallelism
    if given.nodes == 1:
        return ["--standalone", f"--nproc-per-node={ranks}", "--max-restarts=0"]
    if not re.fullmatch(r".+:\d+", given.rendezvous):
        raise BadConfig(
            f"`compute.parallelism.nodes` is {given.nodes}, but `compute.parallelism.rendezvous` is not an address.",
            hint="Set it to `host:port` on the first node, the same on every node, or leave it empty.",
        )
    if given.node >= given.nodes:
        raise BadConfig(
            f"`compute.parallelism.node` is {given.node}, but there are {given.nodes} nodes, counted from 0."
        )
    host, port = split_address(given.rendezvous)
    # not c10d: there, any node may get rank 0, which has the result
    return [
        f"--nnodes={given.nodes}", f"--nproc-per-node={ranks}", "--max-restarts=0", "--rdzv-backend=static",
        f"--node-rank={given.node}", f"--master-addr={host}", f"--master-port={port}",
        f"--rdzv-conf=timeout={RENDEZVOUS_TIMEOUT_S:.0f}",
    ]  # fmt: skip


def _follow(supervisor: subprocess.Popen[bytes], context: Context, module: str, peers: PeerFailures) -> None:
    metrics, ranks = Tail(context.folder / "metrics.jsonl"), RankLog(context.folder / "log.txt")
    began, timeout_s = time.monotonic(), context.compute.supervision.timeout_s
    others = context.compute.parallelism.nodes - 1
    last: dict[str, Any] = {"message": f"starting, together with {others} other nodes" if others else "starting"}
    reported = 0.0
    while True:
        running = supervisor.poll() is None
        if time.monotonic() - reported > REPORT_EVERY_S:  # also without a new line: a sink ends training by raising
            reported = time.monotonic()
            _report(last, context.progress)
            peers.check()
        for line in metrics.lines():
            with suppress(ValueError):  # a full disk may have cut the line
                last, reported = json.loads(line), time.monotonic()
            _report(last, context.progress)
        ranks.forward(last=not running)
        if not running:
            return
        if timeout_s and time.monotonic() - began > timeout_s:
            raise StageFailed(
                f"`{module}` ran longer than {timeout_s:g} s.",
                hint="Raise `--compute supervision.timeout_s=…`; the next run resumes from a checkpoint, if any.",
            )
        time.sleep(POLL_S)


def _report(line: dict[str, Any], progress: Reporter) -> None:
    """Emits a line of `metrics.jsonl` as an event."""
    metrics = {name: value for name, value in line.items() if isinstance(value, int | float)}
    done, total = metrics.pop("done", 0), metrics.pop("total", 0)
    progress(done, total, line.get("unit", ""), line.get("message", ""), metrics)


def _read_json(path: Path) -> dict[str, Any] | None:
    """An object that a child process wrote; None when the file is missing or incomplete (a full disk)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _result(folder: Path, module: str) -> dict[str, Any]:
    """The metrics of the worker, or the most specific error that explains why there are none."""
    result, error, failures = (_read_json(folder / name) for name in ("result.json", "error.json", FAILURES))
    if result is not None and not (folder / "error.json").exists():
        return result
    exit_codes: dict[str, int] = (failures or {}).get("exit_codes", {})
    reported = from_json(error) if error else None
    if reported and type(reported) not in (StageFailed, Unexpected):
        raise reported
    if -signal.SIGKILL in exit_codes.values():  # it causes the errors of other ranks
        raise NotEnoughMemory(
            f"The system killed `{module}`, most likely because it ran out of memory.",
            hint="Lower `--compute parallelism.micro_batch_rows=…` or `pretrain.model.depth`.",
        )
    if reported:
        raise reported
    if failures and failures.get("preempted"):
        raise Preempted(f"`{module}` received a TERM.", hint="The same run resumes from its last checkpoint, if any.")
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace")
    if "No space left on device" in text:  # which may also have kept the worker from writing its error
        raise NoSpace(f"No space left for `{module}`.", hint=f"Free some space; `{log}` names the file.")
    raise StageFailed(
        f"`{module}` ended without a result: {describe_failure(text, exit_codes)}.", hint=f"See `{log}` for its output."
    )
