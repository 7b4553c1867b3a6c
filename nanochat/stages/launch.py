"""torchrun in a process tree of its own: start, follow, stop.

The child is told what to do by a job file and answers with files beside it (see `nanochat.job`). Its log stays in the
run's folder; its metrics are followed into the caller's progress.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nanochat import settings
from nanochat.config import Compute, Config
from nanochat.errors import NoSpace, NotEnoughMemory, Preempted, StageFailed, from_json
from nanochat.job import Job
from nanochat.stages.stage import Context

POLL_S = 0.1
EXIT_PREEMPTED = 75
KILLED = -9
LAUNCHER = ("-m", "torch.distributed.run")


def launch(
    module: str, config: Config, inputs: dict[str, Path | list[Path]], out: Path, context: Context
) -> dict[str, Any]:
    """Runs a worker module to its end and returns the metrics it reports.

    Raises the worker's own typed error; `NotEnoughMemory` when the system killed it; `StageFailed` with the last line
    of its log otherwise. Whatever ends this call (an exception from `progress` too), no process is left behind.
    """
    job = Job(
        module=module,
        config=config.model_dump(mode="json"),
        inputs={
            name: [str(p) for p in (given if isinstance(given, list) else [given])] for name, given in inputs.items()
        },
        out=str(out),
        folder=str(context.folder),
        checkpoints=context.checkpoints,
        compute=context.compute,
    )
    path = job.write()
    log = context.folder / "log.txt"
    ranks = rank_count(context.compute)
    command = [sys.executable, *LAUNCHER, *rendezvous(context.compute, ranks), "-m", module, str(path)]
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "nanochat.stages.supervise", str(log), *command],
        stdin=subprocess.PIPE,
        env=settings.child_environment(max(1, settings.cores() // ranks)),
    )
    try:
        _follow(supervisor, context, module)
    finally:
        assert supervisor.stdin
        supervisor.stdin.close()  # the supervisor ends what still runs
        code = supervisor.wait()
    return _result(context.folder, module, code)


def _paths(given: Path | list[Path]) -> list[str]:
    return [str(path) for path in (given if isinstance(given, list) else [given])]


def rank_count(compute: Compute) -> int:
    """Training processes on this node: as asked, else one a GPU, and one on a CPU."""
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*"))) if compute.device != "cpu" else 0
    return compute.ranks or max(1, gpus)


def rendezvous(compute: Compute, ranks: int) -> list[str]:
    """torchrun's options for one node or several."""
    if compute.nodes == 1:
        return ["--standalone", f"--nproc-per-node={ranks}", "--max-restarts=0"]
    return [
        f"--nnodes={compute.nodes}", f"--nproc-per-node={ranks}", "--max-restarts=0", "--rdzv-backend=c10d",
        f"--rdzv-endpoint={compute.rendezvous}",
    ]  # fmt: skip


def _follow(supervisor: subprocess.Popen[bytes], context: Context, module: str) -> None:
    metrics = context.folder / "metrics.jsonl"
    began, position, rest = time.monotonic(), 0, b""
    context.progress(0, 0, "", "starting")
    while True:
        running = supervisor.poll() is None
        if metrics.exists():
            with metrics.open("rb") as file:
                file.seek(position)
                rest += file.read()
                position = file.tell()
            *lines, rest = rest.split(b"\n")
            for line in lines:
                _tell(json.loads(line), context)
        if not running:
            return
        if context.compute.timeout_s and time.monotonic() - began > context.compute.timeout_s:
            raise StageFailed(
                f"`{module}` ran longer than {context.compute.timeout_s:g} s.",
                hint="Raise `--compute timeout_s=…`; training goes on from its last checkpoint.",
            )
        time.sleep(POLL_S)


def _tell(event: dict[str, Any], context: Context) -> None:
    numbers = {k: v for k, v in event.items() if isinstance(v, int | float) and k not in ("done", "total")}
    context.progress(
        event.get("done", 0), event.get("total", 0), event.get("unit", ""), event.get("message", ""), numbers
    )


def _result(folder: Path, module: str, code: int) -> dict[str, Any]:
    if (folder / "error.json").exists():
        raise from_json(json.loads((folder / "error.json").read_text()))
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    log = folder / "log.txt"
    text = log.read_text(errors="replace") if log.exists() else ""
    if code == EXIT_PREEMPTED:
        raise Preempted(f"`{module}` was told to stop and saved a checkpoint.", hint="The same run goes on from there.")
    if "No space left on device" in text:
        raise NoSpace(f"No space left for `{module}`.", hint=f"Free some; `{log}` says where.")
    if "SIGKILL" in text or "exitcode: -9" in text or "exitcode  : -9" in text:
        raise NotEnoughMemory(
            f"`{module}` was killed by the system, most likely for want of memory.",
            hint="Lower `--compute micro_batch_rows=…` or `pretrain.model.depth`.",
        )
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith((" ", "=", "-"))]
    last = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "it said nothing")
    raise StageFailed(f"`{module}` ended without a result: {last.strip()[:300]}.", hint=f"`{log}` has the whole story.")
