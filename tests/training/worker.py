"""A worker that follows orders, without a model: `orders` is the config's only field."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from nanochat.config.base import Config
from nanochat.errors import BadSource
from nanochat.workers.job import Job
from nanochat.workers.ranks import Preempted, World, main, stop_requested, sum_over_ranks
from nanochat.workers.watchdog import Watchdog


class Orders(Config):
    """What to do."""

    orders: str
    """One of the cases below."""


def work(job: Job, world: World) -> dict[str, Any]:
    match job.config["orders"]:
        case "answer":
            sys.stderr.write(f"here is rank {world.rank}\n" + 500 * "and logs much\n")
            half = '{"done": 1, "total": 2, "unit": "steps", "message": "half", "loss": 3.5}'
            (Path(job.folder) / "metrics.jsonl").write_text(half + '\n{"done": 2, "total": 2}\n')
            return {"world_size": world.world_size, "threads": torch.get_num_threads()}
        case "typed":
            raise BadSource("`rows` is empty.", hint="Fill it.")
        case "break":
            raise ValueError("three is not four")
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device", "/a/disk")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            while not stop_requested():
                time.sleep(0.05)
            raise Preempted
        case "hang":
            watchdog = Watchdog(job, world.rank, job.compute.supervision.watchdog_timeout_s)
            for step in range(1000):
                watchdog.heartbeat()
                if step == 3 and world.rank == 1:
                    time.sleep(600)
                sum_over_ranks(1.0)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (Path(job.folder) / "stubborn").write_text("here")
            time.sleep(600)
    sys.exit("no such order")


if __name__ == "__main__":
    main(work)
