"""One optimizer step, and the loop around it: written once, for pretraining and fine-tuning.

What is not the step are three calls in the loop: metrics, evaluation, checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nanochat.config import Compute
from nanochat.data.loader import IGNORED, Loader
from nanochat.data.rows import RowFiles
from nanochat.errors import BadSource, DamagedArtifact, Diverged
from nanochat.job import Job
from nanochat.model.gpt import GPT
from nanochat.optim.schedule import StepRates
from nanochat.optim.step import Optimizer
from nanochat.ranks import Preempted, World, stop_requested, sum_over_ranks
from nanochat.training.checkpoint import Checkpoints
from nanochat.training.metrics import Metrics, memory_bytes, peak_flops

CPU_MICRO_BATCH_TOKENS = 16_384
CUDA_MICRO_BATCH_TOKENS = 65_536
SMOOTHING = 0.9
"""Of the loss that is shown: an exponential moving average."""


@dataclass(frozen=True)
class Schedule:
    """What is trained for how long, and what is asked on the way."""

    steps: int
    batch_rows: int
    seed: int
    rates: Callable[[int], StepRates]
    evaluate: Callable[[], float]
    evaluation_name: str
    """Name of what `evaluate` measures: `validation_bits_per_byte`."""
    evaluate_every_steps: int


@dataclass(frozen=True)
class Trained:
    """What the loop measured."""

    loss: float
    """Smoothed, in nats per counted token."""
    evaluation: float
    tokens_per_s: float
    seconds: float
    """Of training proper, without evaluation and checkpoints, over all attempts."""
    resumed_from_step: int
    history: list[str]


def train(job: Job, world: World, model: GPT, optimizer: Optimizer, rows: RowFiles, schedule: Schedule) -> Trained:
    """Trains to the end of the schedule, from the newest whole checkpoint if there is one.

    Raises `Diverged` on NaN or infinity, `BadSource` on a batch in which nothing is to be learnt, and `Preempted`
    after saving when a rank was told to stop.
    """
    metrics = Metrics(job, writes=world.is_first)
    checkpoints = Checkpoints(job.checkpoints, Path(job.folder) / "spool", job.compute.keep_checkpoints)
    step, consumed, smoothed, seconds = 0, 0, 0.0, 0.0
    saved = checkpoints.newest()
    for warning in checkpoints.warnings:
        metrics.say(0, schedule.steps, warning)
    if saved is not None:
        try:
            model.load_state_dict(saved.model)
            optimizer.load_state_dict(saved.optimizer)
        except (RuntimeError, KeyError) as error:
            raise DamagedArtifact(f"The checkpoint at step {saved.step} does not fit the model: {error}.") from error
        step, consumed = saved.step, saved.rows_consumed
        smoothed, seconds = saved.numbers["smoothed_loss"], saved.numbers["seconds"]
        metrics.history.extend(saved.metrics)
        metrics.say(step, schedule.steps, f"going on from the checkpoint at step {step}")
    start = step
    compute = job.compute
    network: nn.Module = model
    if compute.compile == "on" or (compute.compile == "auto" and world.device.type == "cuda"):
        network = torch.compile(model, dynamic=False)  # pyright: ignore[reportAssignmentType]
    loader = Loader(
        rows, schedule.seed, schedule.batch_rows, world.rank, world.world_size,
        micro_batch_rows(compute, rows.sequence_len, world), world.device, consumed,
    )  # fmt: skip
    evaluation, measured_tokens, measured_s = math.nan, 0, 0.0
    last_saved, peak = time.monotonic(), peak_flops(world.device)
    batch_tokens = schedule.batch_rows * rows.sequence_len
    flops_per_token = model.architecture.flops_per_token

    def save() -> None:
        nonlocal last_saved
        numbers = {"smoothed_loss": smoothed, "seconds": seconds}
        state = optimizer.state_dict()  # collective: every rank takes part
        if world.is_first:
            checkpoints.save(step, loader.rows_consumed, model.state_dict(), state, numbers, metrics.history)
        last_saved = time.monotonic()

    try:
        while step < schedule.steps:
            began = time.monotonic()
            rates = schedule.rates(step)
            loss = optimizer_step(network, optimizer, loader, rates)
            if not math.isfinite(loss):
                raise Diverged(
                    f"The loss is {loss} at step {step}.",
                    hint="Lower the rates (`pretrain.optimizer`), or raise `batch_tokens`; checkpoints are kept.",
                )
            step += 1
            took = time.monotonic() - began
            seconds += took
            if step > start + 2:  # the first steps warm the machine up
                measured_tokens, measured_s = measured_tokens + batch_tokens, measured_s + took
            smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss
            shown = smoothed / (1 - SMOOTHING**step)
            speed = measured_tokens / measured_s if measured_s else batch_tokens / took
            due = schedule.evaluate_every_steps and step % schedule.evaluate_every_steps == 0
            asked: float | None = None
            if due or step == schedule.steps:
                model.eval()
                asked = evaluation = schedule.evaluate()
                model.train()
            if step % compute.log_every_steps == 0 or asked is not None:
                left = (schedule.steps - step) * batch_tokens / speed
                metrics.event(
                    step, schedule.steps, _line(shown, asked, schedule.evaluation_name, speed, left),
                    loss=loss, smoothed_loss=shown, lr_multiplier=rates.lr_multiplier, tokens=step * batch_tokens,
                    tokens_per_s=speed, seconds=seconds, memory_bytes=memory_bytes(world.device), epoch=loader.epoch,
                    mfu=speed * flops_per_token / (peak * world.world_size) if peak else None,
                    **({schedule.evaluation_name: asked} if asked is not None else {}),
                )  # fmt: skip
            if stop_requested():
                save()
                checkpoints.wait()
                raise Preempted
            if _agreed(time.monotonic() - last_saved > compute.checkpoint_every_s) and step < schedule.steps:
                save()
        if math.isnan(evaluation):  # resumed at the very end
            model.eval()
            evaluation = schedule.evaluate()
        checkpoints.wait()
    finally:
        loader.close()
    speed = measured_tokens / measured_s if measured_s else 0.0
    return Trained(smoothed / (1 - SMOOTHING**step), evaluation, speed, seconds, start, metrics.history)


def optimizer_step(network: nn.Module, optimizer: Optimizer, loader: Loader, rates: StepRates) -> float:
    """Gradient accumulation over this rank's micro-batches, one update; returns the batch's mean loss in nats.

    The loss is the mean over all tokens that count in the whole batch, whatever the ranks and micro-batches.
    """
    batches = list(loader.step())
    (counted,) = sum_over_ranks(sum(int((batch.targets_BT != IGNORED).sum()) for batch in batches))
    if not counted:
        raise BadSource(
            "A whole batch has nothing to learn: every loss mask is empty.", hint="Check the conversations."
        )
    total = 0.0
    for inputs_BT, targets_BT in batches:
        nats = network(inputs_BT, targets_BT, reduction="sum")
        (nats * (loader.world_size / counted)).backward()  # the optimizer averages over the ranks
        total += nats.item()
    optimizer.step(rates)
    optimizer.zero_grad()
    (total,) = sum_over_ranks(total)
    return total / counted


def micro_batch_rows(compute: Compute, sequence_len: int, world: World) -> int:
    """Rows of one pass: as asked, else what suits the device (the loader takes no more than the batch has)."""
    tokens = CUDA_MICRO_BATCH_TOKENS if world.device.type == "cuda" else CPU_MICRO_BATCH_TOKENS
    return compute.micro_batch_rows or max(1, tokens // sequence_len)


def _agreed(mine: bool) -> bool:
    """What any rank's clock says, all do: saving is collective."""
    return sum_over_ranks(float(mine))[0] > 0


def _line(loss: float, asked: float | None, name: str, tokens_per_s: float, left_s: float) -> str:
    parts = [f"loss {loss:.3f}"]
    if asked is not None:
        parts.append(f"{name.replace('_', ' ')} {asked:.4f}")
    minutes, rest = divmod(round(left_s), 60)
    parts += [f"{tokens_per_s:,.0f} tokens/s", f"{minutes}:{rest:02} left"]
    return " · ".join(parts)
