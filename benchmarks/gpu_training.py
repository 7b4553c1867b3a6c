"""A training of `gpu.py`: a model, its optimizer and rows in memory, by the same functions as a real run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.gpu_parts import Bench
from nanochat.config.compute import Compute, Kernels
from nanochat.config.training import ModelConfig, OptimizerConfig
from nanochat.data.loader import Batch
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.optim.optimizer import build_optimizer
from nanochat.optim.schedule import rates
from nanochat.scaling import best_batch_tokens, hyperparameters_from_steps
from nanochat.training.device_setup import compute_dtype, prepare_for_device
from nanochat.training.loss_scale import LossScale
from nanochat.training.metrics import Clock
from nanochat.training.micro_batch import micro_batch_rows, rows_that_run
from nanochat.training.step import optimizer_step
from nanochat.workers.ranks import World

ROOT = Path(__file__).parent.parent
PAIRS = 1 << 14
"""Vocabulary of `text_rows`: pairs of ASCII characters."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a training."""

    architecture: Architecture
    batch_tokens: int
    micro_rows: int = 0
    """0: chosen, as in a real run."""


def profile_shape(depth: int, bench: Bench) -> Shape:
    """The shapes of `--profile d12` and `speedrun`; in a rehearsal, two small layers."""
    if bench.rehearsal:
        return small_shape(bench)
    architecture = Architecture(model=ModelConfig(depth=depth), vocab_size=32_768, sequence_len=2048)
    return Shape(architecture, best_batch_tokens(architecture))


def small_shape(bench: Bench) -> Shape:
    """A model that compiles in seconds, with windows shorter than T and matrices large enough for 8 bits."""
    if bench.rehearsal:
        model = ModelConfig(depth=2, aspect_ratio=16, head_dim=16)
        return Shape(Architecture(model=model, vocab_size=512, sequence_len=160), 640, 2)
    model = ModelConfig(depth=4, aspect_ratio=128)
    return Shape(Architecture(model=model, vocab_size=PAIRS, sequence_len=2048), 32_768, 8)


def random_rows(shape: Shape, device: torch.device) -> Tensor:
    """(N, T+1) int64, the rows of one batch."""
    generator = torch.Generator(device).manual_seed(1)
    size = (shape.batch_tokens // shape.architecture.sequence_len, shape.architecture.sequence_len + 1)
    return torch.randint(shape.architecture.vocab_size, size, generator=generator, device=device)


def text_rows(shape: Shape, device: torch.device) -> Tensor:
    """(N, T+1) int64: real text without a tokenizer or a download, the sources of this project as pairs of characters.

    The rows are in a fixed random order, so that batches are alike. A smaller vocabulary has fewer of the pairs.
    """
    files = sorted(path for room in ("nanochat", "flows", "docs") for path in (ROOT / room).rglob("*.[pm][yd]"))
    codes = bytearray(b"".join(path.read_bytes() for path in files).decode().encode("ascii", "replace"))
    codes += b" " * (len(codes) % 2)
    pairs = torch.frombuffer(codes, dtype=torch.uint8).long().view(-1, 2)
    ids = (pairs[:, 0] * 128 + pairs[:, 1]) % shape.architecture.vocab_size
    length = shape.architecture.sequence_len + 1
    rows = ids[: len(ids) // length * length].view(-1, length)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))].to(device)


class MemoryRows:
    """A `BatchSource` of `nanochat.training.step`: rows (N, T+1) int64 on the device, again and again."""

    world_size = 1

    def __init__(self, rows: Tensor, batch_rows: int, micro_rows: int, start_row: int = 0) -> None:
        self.rows, self.batch_rows, self.micro_rows = rows, batch_rows, micro_rows
        self.rows_consumed = start_row

    @property
    def device(self) -> torch.device:
        return self.rows.device

    @property
    def epoch(self) -> float:
        return self.rows_consumed / len(self.rows)

    def step(self) -> list[Batch]:
        begin = self.rows_consumed % max(1, len(self.rows) - self.batch_rows + 1)
        batch = self.rows[begin : begin + self.batch_rows]
        self.rows_consumed += self.batch_rows
        return [Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous()) for rows in batch.split(self.micro_rows)]

    def close(self) -> None:
        pass


class Training:
    """A model on the device, ready to train. `compiled` is False in rehearsals, which compile only for graph breaks."""

    def __init__(
        self, bench: Bench, shape: Shape, precision: str, rows: Tensor, *, steps: int = 500, seed: int = 1,
        compiled: bool | None = None, start_row: int = 0,
    ) -> None:  # fmt: skip
        compiled = not bench.rehearsal if compiled is None else compiled
        if precision == "fp8" and bench.rehearsal:  # a CPU has no 8-bit products for a whole network
            precision = "bf16"
        self.shape, self.device = shape, bench.device
        self.hyperparameters = hyperparameters_from_steps(
            shape.architecture, batch_tokens=shape.batch_tokens, steps=steps, muon_weight_decay=0.1
        )
        self.model = GPT(shape.architecture, compute_dtype(precision, bench.device))
        self.model.init_weights(seed)
        self.model.to(bench.device)
        self.optimizer = build_optimizer(self.model, OptimizerConfig(), self.hyperparameters)
        batch_rows = self.hyperparameters.batch_rows
        world = World(0, 1, bench.device)
        self.micro_rows = shape.micro_rows or micro_batch_rows(
            Compute(), self.model, shape.architecture.sequence_len, batch_rows, world
        )
        kernels = Kernels(compile="on" if compiled else "off")
        self.setup = prepare_for_device(self.model, precision, kernels, bench.device)
        if not shape.micro_rows:
            self.micro_rows, tried = rows_that_run(
                Compute(), self.model, self.micro_rows, shape.architecture.sequence_len, batch_rows, world
            )
            self.setup += tried
        self.source = MemoryRows(rows, batch_rows, self.micro_rows, start_row)
        self.loss_scale = LossScale() if self.model.compute_dtype == torch.float16 else None
        self.clock, self.done = Clock(), 0

    def step(self) -> Tensor:
        """One optimizer step; returns what `optimizer_step` returns, without waiting."""
        now = rates(self.done, self.hyperparameters.steps, OptimizerConfig(), self.hyperparameters.muon_weight_decay)
        found = optimizer_step(self.model, self.optimizer, self.source, now, self.clock, self.loss_scale)
        self.done += 1
        return found

    def losses(self, steps: int) -> list[float]:
        """The loss of each of so many steps, in nats per token; waits once, at the end."""
        found = torch.stack([self.step() for _ in range(steps)])
        return (found[:, 0] / found[:, 1].clamp_min(1)).tolist()


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def kernel_seconds(work: Callable[[], object], bench: Bench, times: int = 20) -> float:
    """Median seconds of a call on the device, after a warm-up; for calls that are short."""
    if bench.device.type != "cuda":
        work()
        return seconds_of(work, bench.device)
    for _ in range(3):
        work()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(times)]
    for begin, end in events:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return median(begin.elapsed_time(end) for begin, end in events) / 1e3


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
