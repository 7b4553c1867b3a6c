"""A worker process as one of several ranks: process group, device, signals, result or error."""

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
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from nanochat import settings
from nanochat.config.compute import Compute
from nanochat.failures import to_nanochat_error, traceback_text
from nanochat.workers.job import EXIT_FAILED, EXIT_PREEMPTED, Job, write_error

T = TypeVar("T")


class Preempted(BaseException):
    """This rank received a TERM, and has saved what it can continue from."""


@dataclass(frozen=True)
class World:
    """This process among the ranks, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


_stop = threading.Event()


def stop_requested() -> bool:
    """Whether any rank received a TERM; the same on all ranks, which must all call."""
    if not dist.is_initialized():
        return _stop.is_set()
    flag = torch.tensor([_stop.is_set()], dtype=torch.int32, device=_device_of_group())
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def sum_over_ranks(*values: float) -> tuple[float, ...]:
    """The sum of each value over the ranks, in float64."""
    if not dist.is_initialized():
        return values
    total = torch.tensor(values, dtype=torch.float64, device=_device_of_group())
    dist.all_reduce(total)
    return tuple(total.tolist())


def from_all_ranks(mine: T) -> list[T]:
    """The value of each rank, by rank. Collective."""
    if not dist.is_initialized():
        return [mine]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered


def raise_if_terminated() -> None:
    """Raises `Preempted` if this rank received a TERM; not collective, for work that does not end with a checkpoint."""
    if _stop.is_set():
        raise Preempted


def _device_of_group() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def main(work: Callable[[Job, World], dict[str, Any]]) -> None:
    """Runs a worker: reads the job of the command line, writes its result or its error, exits with a code.

    `@record` of torch elastic would keep the traceback of an unexpected error only; `error.json` has typed errors.
    """
    signal.signal(signal.SIGTERM, _on_signal)
    path = Path(sys.argv[1])
    job: Job | None = None
    try:
        _exit_with_supervisor(settings.supervisor_pid())
        job = Job.read(path)
        world = _join(job.compute)
        result = work(job, world)
        if world.is_first:
            job.write_result(result)
    except Preempted:
        sys.exit(EXIT_PREEMPTED)
    except Exception as error:  # noqa: BLE001 - the parent gets one sentence, the log the traceback
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
    """Joins the process group: NCCL on GPUs, Gloo on CPUs."""
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
    """The first TERM requests a checkpoint; the second ends the process at once."""
    if _stop.is_set():
        os._exit(EXIT_PREEMPTED)
    _stop.set()


def _exit_with_supervisor(supervisor: int) -> None:
    """Starts a thread that ends this process when its supervisor (a pid; 0: none) is gone, against orphans."""

    def watch() -> None:
        while True:
            time.sleep(1)
            try:
                os.kill(supervisor, 0)
            except ProcessLookupError:
                os._exit(EXIT_FAILED)

    if supervisor:
        threading.Thread(target=watch, daemon=True).start()
