"""Parts of `gpu.py` that train for real: four precisions on the same batches; one seed twice; save and resume."""

from __future__ import annotations

import math
import tempfile
import warnings
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from benchmarks.gpu_parts import Bench
from benchmarks.gpu_training import Training, small_shape, text_rows
from nanochat.training.checkpoint import Checkpoints

PRECISIONS = ("fp32", "bf16", "fp16", "fp8")
NEAR_NATS = {"bf16": 0.02, "fp16": 0.02, "fp8": 0.05}


def precisions(bench: Bench) -> None:
    """Trains on real text in each precision, from the same weights on the same batches; compares the last losses."""
    shape = small_shape(bench)
    rows = text_rows(shape, bench.device)
    steps, last = (3, 1) if bench.rehearsal else (60, 10)
    final: dict[str, float] = {}
    for precision in PRECISIONS:
        if bench.rehearsal and precision == "fp16":
            continue  # a CPU takes minutes
        training = Training(bench, shape, precision, rows, steps=steps)
        losses = training.losses(steps)
        final[precision] = mean(losses[-last:])
        bench.numbers(**{precision: losses})
        del training
        torch.compiler.reset()
    apart = {name: final[name] - final["fp32"] for name in final if name != "fp32"}
    finite = all(math.isfinite(loss) for loss in final.values())
    holds = finite and all(abs(nats) <= NEAR_NATS[name] for name, nats in apart.items())
    seen = ", ".join(f"{name} {nats:+.4f}" for name, nats in apart.items())
    bench.check("precisions", holds, f"{seen} nats beside fp32's {final['fp32']:.4f}, {steps} steps")


def resume(bench: Bench) -> None:
    """The same steps twice; then from a checkpoint, which a training with other weights loads."""
    shape = small_shape(bench)
    rows = text_rows(shape, bench.device)
    before, after = (1, 1) if bench.rehearsal else (4, 4)

    def fresh(seed: int) -> Training:
        return Training(bench, shape, "bf16", rows, steps=before + after, seed=seed)

    warnings.filterwarnings("ignore", "torch.distributed is disabled")  # it is one process
    once, again = fresh(1), fresh(1)
    losses, repeated = once.losses(before), again.losses(before)
    with tempfile.TemporaryDirectory() as folder:
        saving = _checkpoints(folder)
        saving.save(once.done, once.source.rows_consumed, _tensors(once), {}, [])
        saved_tensors = {name: tensor.detach().clone() for name, tensor in _tensors(once).items()}
        losses += once.losses(after)
        repeated += again.losses(after)
        saving.wait(must=True)
        resumed = fresh(2)
        saved = _checkpoints(folder).resume(_tensors(resumed))
    assert saved is not None, "no checkpoint was found"
    wrong = [name for name, tensor in _tensors(resumed).items() if not torch.equal(tensor, saved_tensors[name])]
    resumed.done, resumed.source.rows_consumed = saved.step, saved.rows_consumed
    continued = resumed.losses(after)
    bench.numbers(losses=losses, losses_again=repeated, losses_resumed=continued, wrong_tensors=wrong)
    seen = (
        f"{len(saved_tensors) - len(wrong)} of {len(saved_tensors)} tensors; {_difference(losses[before:], continued)}"
    )
    bench.check("resumed", not wrong, f"{seen}; of two runs of one seed, {_difference(losses, repeated)}")


def _checkpoints(folder: str) -> Checkpoints:
    return Checkpoints(f"{Path(folder).as_uri()}/checkpoints", Path(folder) / "spool", keep=1)


def _tensors(training: Training) -> dict[str, Tensor]:
    """What a checkpoint of a real run has."""
    model = {f"model.{name}": tensor for name, tensor in training.model.state_dict().items()}
    optimizer = training.optimizer.state().items()  # no shards: it is one rank
    return {**model, **{f"optimizer.{name}": tensor for name, tensor in optimizer if isinstance(tensor, Tensor)}}


def _difference(losses: list[float], others: list[float]) -> str:
    apart = max(abs(a - b) for a, b in zip(losses, others, strict=True))
    steps = f"{len(losses)} step" + ("s" if len(losses) > 1 else "")
    return (
        f"the losses of {steps} equal"
        if losses == others
        else f"the losses of {steps} differ by up to {apart:.2g} nats"
    )
