"""One optimizer step, and the loop around it: written once, for pretraining and fine-tuning.

What is not the step are calls in the loop: look at the loss, evaluate, tell, save. Between two looks
(`compute.tracking.log_every_steps`) nothing waits for the device.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.config.training import GuardConfig
from nanochat.data.loader import IGNORED, Batch, Loader
from nanochat.data.row_index import RowSet
from nanochat.errors import BadSource, Diverged, NotEnoughMemory
from nanochat.model.gpt import GPT
from nanochat.optim.exact_sum import pass_in_tree_order
from nanochat.optim.optimizer import Optimizer
from nanochat.optim.schedule import StepRates
from nanochat.training.checkpoint import Checkpoints, Saved
from nanochat.training.device_setup import Fitted
from nanochat.training.guard import LOWER_THE_RATES, Guard
from nanochat.training.loss_scale import LossScale
from nanochat.training.metrics import Clock, Metrics, memory_bytes, peak_flops
from nanochat.workers.job import Job
from nanochat.workers.ranks import Preempted, World, stop_requested, sum_over_ranks
from nanochat.workers.watchdog import Watchdog

SMOOTHING = 0.9
"""Of the loss that is shown: an exponential moving average."""
WARMUP_STEPS = 2
"""Of a process, left out of the speed: they warm the machine up."""


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
    guard: GuardConfig


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
    time_split: dict[str, float]
    """Seconds of this attempt by kind (`data_s`, `compute_s`, …)."""
    resumed_from_step: int
    history: list[str]


def train(
    job: Job, world: World, model: GPT, fitted: Fitted, optimizer: Optimizer, rows: RowSet, micro_batch_rows: int,
    schedule: Schedule,
) -> Trained:  # fmt: skip
    """Trains to the end of the schedule, from the newest whole checkpoint if there is one.

    Raises `Diverged` as the guard says, `BadSource` on a batch in which nothing is to be learnt, `NotEnoughMemory`
    naming what does not fit, and `Preempted` after saving when a rank was told to stop.
    """
    try:
        return _Training(job, world, model, fitted, optimizer, rows, micro_batch_rows, schedule).run()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise NotEnoughMemory(
            f"Depth {model.architecture.depth} with micro-batches of {micro_batch_rows} rows of {rows.sequence_len} "
            f"tokens does not fit the memory of `{world.device}`.",
            hint=f"Set `--compute parallelism.micro_batch_rows={max(1, micro_batch_rows // 2)}`, "
            "or a smaller `pretrain.model.depth`.",
        ) from error
    finally:
        gc.enable()
        gc.unfreeze()


class _Training:
    """A run of the loop, and where it stands."""

    def __init__(
        self, job: Job, world: World, model: GPT, fitted: Fitted, optimizer: Optimizer, rows: RowSet,
        micro_batch_rows: int, schedule: Schedule,
    ) -> None:  # fmt: skip
        self.job, self.world, self.model, self.optimizer, self.schedule = job, world, model, optimizer, schedule
        self.rows, self.micro_batch_rows = rows, micro_batch_rows
        self.step, self.loss, self.smoothed, self.seconds = 0, math.nan, 0.0, 0.0
        self.gradient_norms = (math.nan, math.nan)
        self.scale = LossScale() if fitted.scales_loss else None
        self.guard = Guard(schedule.guard)
        self.clock = Clock()
        self.metrics = Metrics(job, writes=world.is_first)
        self.state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        self.state |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}
        self.checkpoints = Checkpoints(
            job.checkpoints, Path(job.folder) / f"spool-{world.rank}", job.compute.checkpoints.keep,
            job.compute.checkpoints.keep_every_steps, {"config": job.config, "world_size": world.world_size},
        )  # fmt: skip
        self.watchdog = Watchdog(job, world.rank, job.compute.supervision.watchdog_timeout_s)
        self.measured_tokens, self.measured_s, self.steps_done, self.warm = 0, 0.0, 0, False
        self.looked = time.monotonic()
        self.waiting: list[Tensor] = []
        """Numbers of steps that nobody has looked at yet."""
        self.loader: Loader | None = None
        self.metrics.say(
            0, schedule.steps, f"{fitted.said}, micro-batches of {micro_batch_rows} rows; waiting for the first"
        )

    def run(self) -> Trained:
        schedule, compute = self.schedule, self.job.compute
        saved = self._resumed()
        self._read_from(saved.rows_consumed if saved else 0)
        start, last_saved = self.step, time.monotonic()
        self.looked = time.monotonic()
        try:
            while self.step < schedule.steps:
                assert self.loader
                rates = schedule.rates(self.step)
                self.waiting.append(
                    optimizer_step(self.model, self.optimizer, self.loader, rates, self.clock, self.scale)
                )
                self.step += 1
                self.watchdog.heartbeat()
                to_evaluate = schedule.evaluate_every_steps and self.step % schedule.evaluate_every_steps == 0
                if self.step % compute.tracking.log_every_steps and not to_evaluate and self.step < schedule.steps:
                    continue
                if not self._looked() or self.step == schedule.steps:
                    continue
                self._tell(self._evaluated() if to_evaluate else None)
                if stop_requested():
                    self._save()
                    with self.watchdog.paused():
                        self.checkpoints.wait(must=True)
                    raise Preempted
                due = _agreed(time.monotonic() - last_saved > compute.checkpoints.every_s)
                # one that is still on its way holds nobody up: a slow store has fewer checkpoints, not slower steps
                if due and not _agreed(self.checkpoints.busy()):
                    self._save()
                    last_saved = time.monotonic()
                elif due:
                    self._warn()
                self.looked = time.monotonic()
            if start < schedule.steps:
                self._save()  # before the last evaluation: a failure there must not cost the training
            with self.watchdog.paused():
                self.checkpoints.wait()
            evaluation = self._evaluated()
            self._tell(evaluation)
        finally:
            self.watchdog.stop()
            if self.loader:
                self.loader.close()
            self.metrics.close()
        return Trained(
            self._shown(), evaluation, self._speed(), self._mfu(), self.seconds, self.clock.split(), start,
            self.metrics.history,
        )  # fmt: skip

    # --- looking ------------------------------------------------------------------------------------------------------

    def _looked(self) -> bool:
        """Reads what the steps since the last look gave, and guards it; False when training was rolled back."""
        numbers = torch.stack(self.waiting).tolist()  # here, and only here, the device is waited for
        self.waiting.clear()
        first = self.step - len(numbers) + 1
        for step, (nats, counted, matrix_square, other_square) in enumerate(numbers, first):
            if not counted:
                raise BadSource(
                    "A whole batch has nothing to learn: every loss mask is empty.", hint="Check the conversations."
                )
            self.loss = nats / counted
            self.gradient_norms = (math.sqrt(matrix_square), math.sqrt(other_square))
            try:
                self.guard.look(step, self.loss, sum(self.gradient_norms), self._shown(step - 1) if step > 1 else 0.0)
            except Diverged as error:
                self._roll_back(error)
                return False
            self.smoothed = SMOOTHING * self.smoothed + (1 - SMOOTHING) * self.loss
        took = time.monotonic() - self.looked
        self.seconds += took
        self.steps_done += len(numbers)
        if not self.warm:  # what there is, until there is better
            self.measured_tokens, self.measured_s, self.warm = 0, 0.0, self.steps_done > WARMUP_STEPS
        self.measured_tokens += len(numbers) * self._batch_tokens()
        self.measured_s += took
        if self.steps_done == len(numbers):  # a scan of what lives on costs up to half a second, again and again
            gc.collect()
            gc.freeze()
            gc.disable()
        return True

    def _roll_back(self, error: Diverged) -> None:
        """To the last checkpoint, and behind the rows that were bad; or raises the error."""
        assert self.loader
        if not self.guard.may_roll_back():
            raise error
        with self.watchdog.paused():
            self.checkpoints.wait()
            saved = self._resumed()
        if saved is None:
            raise Diverged(error.message, hint="There was no checkpoint yet to roll back to. " + error.hint)
        self._read_from(self.loader.rows_consumed)
        self.looked = time.monotonic()
        self.metrics.say(self.step, self.schedule.steps, f"rolled back to step {self.step}: {error.message}")

    def _evaluated(self) -> float:
        with self.clock.counting("evaluation"), self.watchdog.paused():
            self.model.eval()
            asked = self.schedule.evaluate()
            self.model.train()
        gc.collect()
        return asked

    def _tell(self, asked: float | None) -> None:
        speed, steps = self._speed(), self.schedule.steps
        left_s = (steps - self.step) * self._batch_tokens() / speed if speed else 0.0
        matrices, others = self.gradient_norms
        assert self.loader
        self.metrics.event(
            self.step, steps, _line(self._shown(), asked, self.schedule.evaluation_name, speed, left_s),
            loss=self.loss, smoothed_loss=self._shown(), gradient_norm=math.hypot(matrices, others),
            matrix_gradient_norm=matrices, other_gradient_norm=others,
            lr_multiplier=self.schedule.rates(self.step - 1).lr_multiplier,
            tokens=self.step * self._batch_tokens(), tokens_per_s=speed, mfu=self._mfu(), seconds=self.seconds,
            memory_bytes=memory_bytes(self.world.device), rows_consumed=self.loader.rows_consumed,
            epoch=self.loader.epoch, loss_scale=self.scale.factor if self.scale else None, **self.clock.split(),
            **{self.schedule.evaluation_name: asked},
        )  # fmt: skip

    def _shown(self, step: int = 0) -> float:
        """The smoothed loss, without the pull of its start at 0."""
        return self.smoothed / (1 - SMOOTHING ** (step or self.step))

    def _batch_tokens(self) -> int:
        return self.schedule.batch_rows * self.rows.sequence_len

    def _speed(self) -> float:
        return self.measured_tokens / self.measured_s if self.measured_s else 0.0

    def _mfu(self) -> float | None:
        peak = peak_flops(self.world.device)
        flops = self._speed() * self.model.architecture.flops_per_token
        return flops / (peak * self.world.world_size) if peak else None

    # --- keeping ------------------------------------------------------------------------------------------------------

    def _resumed(self) -> Saved | None:
        """Takes the state of the newest whole checkpoint, if there is one."""
        saved = self.checkpoints.resume(self.state)
        self._warn()
        if saved is not None:
            self.step = saved.step
            self.loss, self.smoothed, self.seconds = (
                saved.numbers[name] for name in ("loss", "smoothed_loss", "seconds")
            )
            if self.scale:
                self.scale = LossScale(saved.numbers["loss_scale"])
            self.metrics.history[:] = saved.metrics
            self.metrics.say(self.step, self.schedule.steps, f"going on from the checkpoint at step {self.step}")
        return saved

    def _read_from(self, row: int) -> None:
        if self.loader:
            self.loader.close()
        self.waiting.clear()
        self.loader = Loader(
            self.rows, self.schedule.seed, self.schedule.batch_rows, self.world.rank, self.world.world_size,
            self.micro_batch_rows, self.world.device, row,
        )  # fmt: skip

    def _save(self) -> None:
        assert self.loader
        with self.clock.counting("checkpoint"), self.watchdog.paused():
            if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
                raise Diverged(f"A weight is not finite after step {self.step}.", hint=LOWER_THE_RATES)
            numbers = {"loss": self.loss, "smoothed_loss": self.smoothed, "seconds": self.seconds}
            if self.scale:
                numbers["loss_scale"] = self.scale.factor
            rows, history = self.loader.rows_consumed, list(self.metrics.history)
            self.checkpoints.save(self.step, rows, self.state, numbers, history)
        self._warn()

    def _warn(self) -> None:
        for warning in self.checkpoints.warnings:
            self.metrics.say(self.step, self.schedule.steps, warning)
        self.checkpoints.warnings.clear()


def optimizer_step(
    network: nn.Module, optimizer: Optimizer, loader: Loader, rates: StepRates, clock: Clock, scale: LossScale | None
) -> Tensor:
    """Gradient accumulation over this rank's micro-batches, one update.

    The loss is the mean over all tokens that count in the whole batch, whatever the ranks and micro-batches. Returns,
    on the device and over all ranks, (4,) float64: the batch's loss summed up in nats, the tokens that count, and the
    squared norm of the gradient of Muon's matrices and of AdamW's parameters. With a loss scale, a step whose gradients
    overflow is left out.
    """
    with clock.counting("data"):
        batches = list(loader.step())
    factor = scale.factor if scale else 1.0
    counted = torch.stack([(batch.targets_BT != IGNORED).sum() for batch in batches]).sum()
    with clock.counting("communication"):
        _add_over_ranks(counted)
    share = loader.world_size * factor / counted.clamp_min(1)  # the optimizer averages over the ranks
    total = torch.zeros((), dtype=torch.float64, device=loader.device)

    def one_pass(batch: Batch) -> None:
        nats = network(batch.inputs_BT, batch.targets_BT, reduction="sum")
        (nats * share).backward()
        total.add_(nats.detach())

    if optimizer.exact:
        pass_in_tree_order([partial(one_pass, batch) for batch in batches], optimizer.parameters)
    else:
        for number, batch in enumerate(batches, 1):
            if number == len(batches) and scale is None:
                optimizer.expect_last_pass()
            one_pass(batch)
    squares = torch.zeros(2, device=loader.device)
    if scale is None or scale.accepts(optimizer.gradients):
        waited_s = optimizer.waited_s
        squares = optimizer.step(rates, factor)
        clock.add("communication", optimizer.waited_s - waited_s)
    optimizer.zero_grad()
    summed = torch.cat([total[None], squares.double()])
    with clock.counting("communication"):
        _add_over_ranks(summed)
    return torch.cat([summed[:1], counted.double()[None], summed[1:]])


def _add_over_ranks(values: Tensor) -> None:
    """In place; the host does not wait for a GPU."""
    if dist.is_initialized():
        dist.all_reduce(values)


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
