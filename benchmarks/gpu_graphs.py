"""The part of `gpu.py` about compiled code: graph breaks, compilations that repeat, and waits for the device."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters, get_compilation_metrics
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_parts import Bench
from benchmarks.gpu_training import Training, small_shape, text_rows, wait
from nanochat.data.loader import Batch
from nanochat.evaluation.bits_per_byte import bits_per_byte, of_equal_shape
from nanochat.model.compilation import compile_network


def graphs(bench: Bench) -> None:
    """Trains, evaluates and trains again, with the shapes of a real run; then runs a step that must not wait.

    A rehearsal captures the same graphs, and calls no compiler.
    """
    if bench.rehearsal:
        torch.compile = functools.partial(torch.compile, backend="eager")  # this process ends with the part
    shape = small_shape(bench)
    training = Training(bench, shape, "bf16", text_rows(shape, bench.device), compiled=True)
    if bench.rehearsal:  # a CPU compiles the loss only
        compile_network(training.model, shape.architecture.sequence_len)
    bench.numbers(setup=training.setup)
    found = [_graphs_after(lambda: training.losses(2))]  # of training, of the first evaluation, of the rest
    breaks = sum(counters["graph_break"].values())
    evaluated = [0.0, 0.0]

    def evaluate(time: int) -> None:
        evaluated[time] = _evaluate(training)

    found.append(_graphs_after(lambda: evaluate(0)))
    found.append(_graphs_after(lambda: (training.losses(1), evaluate(1), training.losses(1))))
    reasons = [getattr(each, "recompile_reason", None) for each in get_compilation_metrics()]
    bench.numbers(
        graphs=found, graph_breaks=dict(counters["graph_break"]), bits_per_byte=evaluated,
        reasons_for_more=[str(reason).splitlines()[0] for reason in reasons if reason],
    )  # fmt: skip
    bench.check("one-graph", not breaks, f"{found[0]} graphs, {breaks} breaks")
    seen = f"{found[0]} graphs in training, {found[1]} more in the first evaluation, {found[2]} after it"
    bench.check("compiled-once", found[1] <= found[0] and not found[2], seen)
    waits = _waits_of(training) if bench.device.type == "cuda" else _reads_of(training)
    bench.numbers(waits=waits)
    seen = "; ".join(f"{place} ({count})" for place, count in waits.items())
    bench.check("no-wait", not waits, seen or "no call of a step waited")


def _evaluate(training: Training) -> float:
    """Bits per byte of two batches, of which the last is smaller, as in a real run."""
    T, rows = training.shape.architecture.sequence_len, training.source.rows
    token_bytes = torch.full((training.shape.architecture.vocab_size,), 2, dtype=torch.int32, device=training.device)
    count = 2 * training.micro_rows - 1
    batches = [
        Batch(part[:, :T].contiguous(), part[:, 1:].contiguous()) for part in rows[:count].split(training.micro_rows)
    ]
    training.model.eval()
    found = bits_per_byte(training.model, of_equal_shape(batches, training.micro_rows), token_bytes)
    training.model.train()
    return found


def _graphs_after(work: Callable[[], object]) -> int:
    """How many graphs a call compiles."""
    before = counters["stats"]["unique_graphs"]
    work()
    return counters["stats"]["unique_graphs"] - before


def _waits_of(training: Training) -> dict[str, int]:
    """Where a step waits for the GPU, file and line, and how often."""
    wait(training.device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            training.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    synchronizing = [each for each in caught if "synchroniz" in str(each.message)]
    return dict(Counter(f"{Path(each.filename).name}:{each.lineno}" for each in synchronizing))


class _Reads(TorchDispatchMode):
    """Counts operations that read a tensor's value into Python: on a GPU, each would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


def _reads_of(training: Training) -> dict[str, int]:
    """The operations of a step on a CPU that would wait on a GPU, and how often."""
    with torch.compiler.set_stance("force_eager"), _Reads() as reads:
        training.step()
    return dict(reads.found)
