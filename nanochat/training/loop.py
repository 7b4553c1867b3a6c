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
from nanochat.errors import BadSource, Diverged, NotEnoughMemory
from nanochat.job import Job
from nanochat.model.gpt import GPT
from nanochat.optim.schedule import StepRates
from nanochat.optim.step import Optimizer
from nanochat.ranks import Preempted, World, stop_requested, sum_over_ranks
from nanochat.training.checkpoint import Checkpoints
from nanochat.training.metrics import Metrics, memory_bytes, peak_flops
from nanochat.training.pulse import Pulse

CPU_MICRO_BATCH_TOKENS = 16_384
CUDA_MICRO_BATCH_TOKENS = ((18, 65_536), (26, 32_768), (1 << 30, 16_384))
"""Up to that depth, so many tokens, on a card of 80 GB."""
LOWER_THE_RATES = "Lower the rates (`pretrain.optimizer`), or raise `batch_tokens`; checkpoints are kept."
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
    mfu: float | None
    """Model FLOP/s as a share of the cards' peak; None where the peak is not known."""
    seconds: float
    """Of training proper, without evaluation and checkpoints, over all attempts."""
    resumed_from_step: int
    history: list[str]


def train(job: Job, world: World, model: GPT, optimizer: Optimizer, rows: RowFiles, schedule: Schedule) -> Trained:
    """Trains to the end of the schedule, from the newest whole checkpoint if there is one.

    Raises `Diverged` on NaN or infinity, `BadSource` on a batch in which nothing is to be learnt, `NotEnoughMemory`
    naming what does not fit, and `Preempted` after saving when a rank was told to stop.
    """
    try:
        return _train(job, world, model, optimizer, rows, schedule)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        depth, micro = model.architecture.depth, micro_batch_rows(job.compute, model, rows.sequence_len, world)
        raise NotEnoughMemory(
            f"Depth {depth} with micro-batches of {micro} rows of {rows.sequence_len} tokens does not fit "
            f"the memory of `{world.device}`.",
            hint=f"Set `--compute micro_batch_rows={max(1, micro // 2)}`, or a smaller `pretrain.model.depth`.",
        ) from error


def _train(job: Job, world: World, model: GPT, optimizer: Optimizer, rows: RowFiles, schedule: Schedule) -> Trained:
    metrics = Metrics(job, writes=world.is_first)
    compute = job.compute
    checkpoints = Checkpoints(
        job.checkpoints, Path(job.folder) / f"spool-{world.rank}", compute.keep_checkpoints,
        compute.keep_checkpoint_every_steps, {"config": job.config, "world_size": world.world_size},
    )  # fmt: skip
    pulse = Pulse(job, world.rank, compute.silence_s)
    step, consumed, loss, smoothed, seconds = 0, 0, math.nan, 0.0, 0.0
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}
    saved = checkpoints.resume(state)
    for warning in checkpoints.warnings:
        metrics.say(0, schedule.steps, warning)
    checkpoints.warnings.clear()
    if saved is not None:
        step, consumed = saved.step, saved.rows_consumed
        loss, smoothed, seconds = (saved.numbers[name] for name in ("loss", "smoothed_loss", "seconds"))
        metrics.history.extend(saved.metrics)
        metrics.say(step, schedule.steps, f"going on from the checkpoint at step {step}")
    start = step
    network: nn.Module = model
    if compute.compile == "on" or (compute.compile == "auto" and world.device.type == "cuda"):
        network = torch.compile(model, dynamic=False)  # pyright: ignore[reportAssignmentType]
    loader = Loader(
        rows, schedule.seed, schedule.batch_rows, world.rank, world.world_size,
        micro_batch_rows(compute, model, rows.sequence_len, world), world.device, consumed,
    )  # fmt: skip
    speed, measured_tokens, measured_s = 0.0, 0, 0.0
    last_saved, peak = time.monotonic(), peak_flops(world.device)
    batch_tokens = schedule.batch_rows * rows.sequence_len
    flops_per_token = model.architecture.flops_per_token

    def save() -> None:
        nonlocal last_saved
        if not all(parameter.isfinite().all() for parameter in model.parameters()):
            raise Diverged(f"A weight is not finite after step {step}.", hint=LOWER_THE_RATES)
        numbers = {"loss": loss, "smoothed_loss": smoothed, "seconds": seconds}
        checkpoints.save(step, loader.rows_consumed, state, numbers, list(metrics.history))
        for warning in checkpoints.warnings:
            metrics.say(step, schedule.steps, warning)
        checkpoints.warnings.clear()
        last_saved = time.monotonic()

    def mfu() -> float | None:
        return speed * flops_per_token / (peak * world.world_size) if peak else None

    def tell(asked: float | None) -> None:
        shown = smoothed / (1 - SMOOTHING**step)
        left_s = (schedule.steps - step) * batch_tokens / speed if speed else 0.0
        metrics.event(
            step, schedule.steps, _line(shown, asked, schedule.evaluation_name, speed, left_s),
            loss=loss, smoothed_loss=shown, lr_multiplier=schedule.rates(step - 1).lr_multiplier,
            tokens=step * batch_tokens, tokens_per_s=speed, seconds=seconds, memory_bytes=memory_bytes(world.device),
            epoch=loader.epoch, mfu=mfu(), **{schedule.evaluation_name: asked},
        )  # fmt: skip

    try:
        while step < schedule.steps:
            began = time.monotonic()
            loss = optimizer_step(network, optimizer, loader, schedule.rates(step))
            if not math.isfinite(loss):
                raise Diverged(f"The loss is {loss} at step {step}.", hint=LOWER_THE_RATES)
            step += 1
            took = time.monotonic() - began
            seconds += took
            if step > start + 2:  # the first steps warm the machine up
                measured_tokens, measured_s = measured_tokens + batch_tokens, measured_s + took
            smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss
            speed = measured_tokens / measured_s if measured_s else batch_tokens / took
            if step == schedule.steps:
                break
            pulse.beat()
            asked = None
            if schedule.evaluate_every_steps and step % schedule.evaluate_every_steps == 0:
                with pulse.resting():
                    asked = _evaluated(model, schedule)
            if step % compute.log_every_steps == 0 or asked is not None:
                tell(asked)
            if stop_requested():
                with pulse.resting():
                    save()
                    checkpoints.wait(must=True)
                raise Preempted
            # a save that is still on its way holds nobody up: a slow store has fewer checkpoints, not slower steps
            due = _agreed(time.monotonic() - last_saved > compute.checkpoint_every_s)
            if due and not _agreed(checkpoints.busy):
                save()
        with pulse.resting():
            if start < schedule.steps:
                save()  # before the last evaluation: a failure there must not cost the training
            checkpoints.wait()
            evaluation = _evaluated(model, schedule)
        tell(evaluation)
    finally:
        pulse.end()
        loader.close()
    shown = smoothed / (1 - SMOOTHING**step)
    return Trained(shown, evaluation, speed, mfu(), seconds, start, metrics.history)


def _evaluated(model: GPT, schedule: Schedule) -> float:
    model.eval()
    asked = schedule.evaluate()
    model.train()
    return asked


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
    total = torch.zeros((), dtype=torch.float64, device=loader.device)
    for inputs_BT, targets_BT in batches:
        nats = network(inputs_BT, targets_BT, reduction="sum")
        (nats * (loader.world_size / counted)).backward()  # the optimizer averages over the ranks
        total += nats.detach()
    optimizer.step(rates)
    optimizer.zero_grad()
    (batch_nats,) = sum_over_ranks(total.item())
    return batch_nats / counted


def micro_batch_rows(compute: Compute, model: GPT, sequence_len: int, world: World) -> int:
    """Rows of one pass: as asked, else what suits the device (the loader takes no more than the batch has)."""
    if compute.micro_batch_rows:
        return compute.micro_batch_rows
    tokens = CPU_MICRO_BATCH_TOKENS
    if world.device.type == "cuda":
        tokens = next(tokens for depth, tokens in CUDA_MICRO_BATCH_TOKENS if model.architecture.depth <= depth)
        share = torch.cuda.get_device_properties(world.device).total_memory / 80e9
        tokens = round(tokens * 2.0 ** math.floor(math.log2(share * 1.1)))  # cards have a little less than they say
    return max(1, tokens // sequence_len)


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
