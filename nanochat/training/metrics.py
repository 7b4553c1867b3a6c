"""A line of JSON per event: what training watches, and what the report draws."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from nanochat.training.trackers import open_tracker
from nanochat.workers.job import Job

PEAK_BF16_FLOPS = {
    "H200": 989e12, "H100": 989e12, "H800": 989e12, "B200": 2250e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12,
    "L4": 121e12, "4090": 165e12, "5090": 210e12, "3090": 71e12, "V100": 125e12,
}  # fmt: skip
"""Dense bf16 tensor peak of a card, FLOP/s, from its data sheet."""


def peak_flops(device: torch.device) -> float | None:
    """Peak of the detected card in FLOP/s; None on a CPU or an unknown card."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for card, flops in PEAK_BF16_FLOPS.items() if card in name), None)


class Clock:
    """Where the time goes: seconds by kind, on the host."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """What happens inside counts as that kind."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(kind, time.monotonic() - began)

    def add(self, kind: str, seconds: float) -> None:
        self._seconds[kind] += seconds

    def split(self) -> dict[str, float]:
        """`<kind>_s` since the start, of this attempt; `compute_s` is what nothing else claims."""
        counted = {f"{kind}_s": self._seconds[kind] for kind in ("data", "communication", "evaluation", "checkpoint")}
        return {**counted, "compute_s": time.monotonic() - self._began - sum(counted.values())}


class Metrics:
    """Writes events for who follows the run, and keeps the history that goes with checkpoints and payload."""

    def __init__(self, job: Job, writes: bool) -> None:
        self.history: list[str] = []
        self._file = (Path(job.folder) / "metrics.jsonl").open("a", encoding="utf-8") if writes else None
        trackers = job.compute.tracking.trackers if writes else ()
        self._trackers = [open_tracker(name, job) for name in trackers]

    def event(self, done: int, total: int, message: str, **numbers: Any) -> None:
        """Step `done` of `total`; numbers that are None or not finite are left out."""
        kept = {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
        line = json.dumps(
            {"done": done, "total": total, "unit": "steps", "message": message, "time": time.time(), **kept}
        )
        self.history.append(line)
        self._write(line)
        for tracker in self._trackers:
            tracker.log(done, kept)

    def say(self, done: int, total: int, message: str) -> None:
        """A word for who watches, and for the log; not part of the history."""
        self._write(json.dumps({"done": done, "total": total, "unit": "steps", "message": message}))
        if self._file:
            sys.stderr.write(f"step {done}: {message}\n")

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()

    def _write(self, line: str) -> None:
        if self._file:
            self._file.write(line + "\n")
            self._file.flush()


def memory_bytes(device: torch.device) -> int:
    """Peak memory on a GPU, resident memory on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
