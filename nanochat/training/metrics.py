"""Metrics of training: one JSON line per event in `metrics.jsonl`, for the parent process and for the report."""

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

WARMUP_STEPS = 2
PEAK_BF16_FLOPS = {
    "GB200": 2500e12, "B200": 2250e12, "GH200": 989e12, "H200 NVL": 835e12, "H200": 989e12, "H100 PCIe": 756e12,
    "H100 NVL": 835e12, "H100": 989e12, "H800 PCIe": 756e12, "H800": 989e12, "A100": 312e12, "A800": 312e12,
    "L40S": 362e12, "L40": 181e12, "L4": 121e12, "4090": 165e12, "5090": 210e12, "3090": 71e12, "V100": 125e12,
}  # fmt: skip
"""Dense bf16 tensor peak of a GPU in FLOP/s, from its data sheet, by a part of its name; the first that fits counts."""


def peak_flops(device: torch.device) -> float | None:
    """Peak of the GPU in FLOP/s; None on a CPU or an unknown GPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for gpu, flops in PEAK_BF16_FLOPS.items() if gpu in name), None)


class Clock:
    """Seconds by kind, measured on the host."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """Adds the time of the block to that kind."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(kind, time.monotonic() - began)

    def add(self, kind: str, seconds: float) -> None:
        self._seconds[kind] += seconds

    def split(self) -> dict[str, float]:
        """`<kind>_s` of this attempt so far; `compute_s` is the rest."""
        counted = {f"{kind}_s": self._seconds[kind] for kind in ("data", "communication", "evaluation", "checkpoint")}
        return {**counted, "compute_s": time.monotonic() - self._began - sum(counted.values())}


class Throughput:
    """Steps and tokens per second, without the first steps of the process, which are slower."""

    def __init__(self, batch_tokens: int) -> None:
        self.steps = 0
        self._batch_tokens, self._counted, self._seconds, self._warm = batch_tokens, 0, 0.0, False

    def add(self, steps: int, seconds: float) -> None:
        self.steps += steps
        if not self._warm:  # the first steps count until there are later ones
            self._counted, self._seconds, self._warm = 0, 0.0, self.steps > WARMUP_STEPS
        self._counted += steps
        self._seconds += seconds

    @property
    def steps_per_s(self) -> float:
        return self._counted / self._seconds if self._seconds else 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.steps_per_s * self._batch_tokens


class Metrics:
    """Writes events to `metrics.jsonl` and the trackers, and appends them to `history`, which checkpoints contain."""

    def __init__(self, job: Job, history: list[str], *, writes: bool) -> None:
        self._history = history
        self._file = (Path(job.folder) / "metrics.jsonl").open("a", encoding="utf-8") if writes else None
        trackers = job.compute.tracking.trackers if writes else ()
        self._trackers = [open_tracker(name, job) for name in trackers]

    def event(self, done: int, total: int, message: str, **numbers: Any) -> None:
        """Records step `done` of `total`, without the numbers that are None or not finite."""
        kept = {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
        line = json.dumps(
            {"done": done, "total": total, "unit": "steps", "message": message, "time": time.time(), **kept}
        )
        self._history.append(line)
        self._write(line)
        for tracker in self._trackers:
            tracker.log(done, kept)

    def add_to_last(self, **numbers: float) -> None:
        """Records more numbers of the step of the last event, in one line with it."""
        event = {**json.loads(self._history[-1]), **numbers}
        self._history[-1] = json.dumps(event)
        self._write(self._history[-1])
        for tracker in self._trackers:
            tracker.log(event["done"], numbers)

    def message(self, done: int, total: int, message: str) -> None:
        """Writes a message to `metrics.jsonl` and the log; it is not part of the history."""
        self._write(json.dumps({"done": done, "total": total, "unit": "steps", "message": message}))
        if self._file:
            sys.stderr.write(f"step {done}: {message}\n")

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()
        if self._file:
            self._file.close()

    def _write(self, line: str) -> None:
        if self._file:
            self._file.write(line + "\n")
            self._file.flush()


def memory_bytes(device: torch.device) -> int:
    """Peak allocated memory of a GPU; resident memory of the process on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
