"""A worker's place among the ranks: process group, device, signals, and how it answers."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from nanochat import settings
from nanochat.config.compute import Compute
from nanochat.failures import to_nanochat_error, traceback_text
from nanochat.workers.job import Job, write_error

EXIT_FAILED, EXIT_PREEMPTED = 1, 75


class Preempted(BaseException):
    """This rank was told to stop, and has saved what it had."""


@dataclass(frozen=True)
class World:
    """Where this process stands."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


_stop = threading.Event()


def stop_requested() -> bool:
    """Whether some rank was told to stop; every rank gets the same answer."""
    asked = _stop.is_set()
    if dist.is_initialized():
        flag = torch.tensor([asked], dtype=torch.int32, device=_device_of_group())
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())
    return asked


def sum_over_ranks(*values: float) -> tuple[float, ...]:
    """Each value added up over the ranks, in float64."""
    if not dist.is_initialized():
        return values
    total = torch.tensor(values, dtype=torch.float64, device=_device_of_group())
    dist.all_reduce(total)
    return tuple(total.tolist())


def _device_of_group() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def main(work: Callable[[Job, World], dict[str, Any]]) -> None:
    """Runs a worker: job from the command line, result or typed error beside the job file, exit code."""
    signal.signal(signal.SIGTERM, _on_signal)
    path = Path(sys.argv[1])
    job: Job | None = None
    try:
        _end_with(settings.supervisor_pid())
        job = Job.read(path)
        world = _join(job.compute)
        result = work(job, world)
        if world.is_first:
            job.write_result(result)
    except Preempted:
        sys.exit(EXIT_PREEMPTED)
    except Exception as error:  # noqa: BLE001 - the parent is told in one sentence, the log has the rest
        sentence = to_nanochat_error(error, f"`{job.module if job else path}`", log=path.parent / "log.txt")
        if sentence is not error:
            sys.stderr.write(traceback_text(error))
        write_error(path.parent, sentence.to_json())
        sys.exit(EXIT_FAILED)
    finally:
        if dist.is_initialized():
            with suppress(RuntimeError):
                dist.destroy_process_group()


def _join(compute: Compute) -> World:
    rank, world_size, local = settings.rank(), settings.world_size(), settings.local_rank()
    wanted = compute.parallelism.device
    use_cuda = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    device = torch.device("cuda", local) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if world_size > 1:
        dist.init_process_group("nccl" if use_cuda else "gloo", device_id=device if use_cuda else None)
    return World(rank, world_size, device)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """The first TERM asks for a checkpoint; the second ends at once."""
    if _stop.is_set():
        os._exit(EXIT_PREEMPTED)
    _stop.set()


def _end_with(supervisor: int) -> None:
    """Ends this process when the supervisor is gone: the last resort against orphans."""

    def watch() -> None:
        while True:
            time.sleep(1)
            try:
                os.kill(supervisor, 0)
            except ProcessLookupError:
                os._exit(EXIT_FAILED)

    if supervisor:
        threading.Thread(target=watch, daemon=True).start()
