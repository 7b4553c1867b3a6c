"""The training loop, written once for pretraining, fine-tuning and reinforcement learning.

Around the optimizer step (`step.py`) it checks the losses, evaluates, logs and saves checkpoints. Every
`tracking.log_every_steps` steps it reads the losses; between two reads the host does not wait for the device.
"""

import gc
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.config.training import GuardConfig
from nanochat.data.loader import Loader
from nanochat.data.row_index import RowSet
from nanochat.errors import BadSource, Diverged
from nanochat.model.files import save_model
from nanochat.model.gpt import GPT
from nanochat.optim.optimizer import Optimizer
from nanochat.optim.schedule import StepRates
from nanochat.training.checkpoint import Checkpoints
from nanochat.training.guard import LOWER_THE_RATES, Guard
from nanochat.training.loss_scale import LossScale
from nanochat.training.metrics import Clock, Metrics, Throughput, memory_bytes, peak_flops
from nanochat.training.micro_batch import does_not_fit
from nanochat.training.state import TrainState
from nanochat.training.step import BatchSource, Objective, next_token_loss, optimizer_step
from nanochat.workers.job import Job
from nanochat.workers.ranks import Preempted, World, stop_requested, sum_over_ranks
from nanochat.workers.watchdog import Watchdog

CORE_QUESTIONS = "core_questions"
"""The metric that every evaluation on CORE has, also without some tasks."""


@dataclass(frozen=True)
class Schedule:
    """What to train on, for how long, at which rates, and what to evaluate meanwhile."""

    open_source: Callable[[int, int], BatchSource]
    """Opens what is trained on at a position in the data, for a step (the second number); see `rows_source`."""
    steps: int
    batch_tokens: int
    """Tokens per optimizer step, over all ranks; 0: they differ."""
    sequence_len: int
    """Tokens of a row."""
    micro_batch_rows: int
    """Rows per forward and backward pass, on one rank."""
    rates: Callable[[int], StepRates]
    evaluate: Callable[[int], float]
    """Evaluates the model after so many steps."""
    evaluation_name: str
    """Name of the metric that `evaluate` returns: `validation_bits_per_byte`."""
    evaluate_every_steps: int
    guard: GuardConfig
    core: Callable[[Callable[[str], None]], dict[str, float] | None] | None = None
    """Evaluates CORE, and logs which task; None if a stop was requested meanwhile. Collective."""
    core_every_steps: int = 0
    objective: Objective = next_token_loss
    evaluate_first: bool = False
    """Whether the model is also evaluated before the first step."""
    may_be_empty: bool = False
    """Whether a step may have nothing to train on; it then makes no update."""
    stops_early: Callable[[], bool] = lambda: False
    """Whether training ends after the last evaluation."""
    more_numbers: Callable[[], Mapping[str, float]] = dict
    """What else is logged about the steps since the last call; all ranks call it."""
    more_tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """What else checkpoints contain."""


def rows_source(
    rows: RowSet, seed: int, batch_rows: int, micro_batch_rows: int, world: World
) -> Callable[[int, int], Loader]:
    """Opens a loader of rows in the order of a seed; `batch_rows` are those of a step, over all ranks."""
    return lambda row, step: Loader(
        rows, seed, batch_rows, world.rank, world.world_size, micro_batch_rows, world.device, row
    )


@dataclass(frozen=True)
class Trained:
    """Results of the loop, besides the weights."""

    loss: float
    """Smoothed, in nats per counted token."""
    evaluation: float
    tokens_per_s: float
    mfu: float | None
    """Model FLOP/s as a share of the GPUs' peak; None where the peak is unknown."""
    seconds: float
    """Training time of all attempts, without evaluation and checkpoints. On a GPU also without compilation, which
    comes before the first step; on a CPU, compiling the loss is part of the first one."""
    time_split: dict[str, float]
    """Seconds of this attempt by kind (`data_s`, `compute_s`, …)."""
    core: dict[str, float]
    """CORE at the end, on the first rank; empty if it was not evaluated."""
    resumed_from_step: int
    steps: int
    """Completed optimizer steps: fewer than planned if training stopped early."""
    history: list[str]
    """The lines of `metrics.jsonl`."""

    def metrics(self, schedule: Schedule, parameters: int, world_size: int) -> dict[str, Any]:
        """The metrics that the stages of pretraining and fine-tuning share."""
        return {
            "steps": schedule.steps, "train_tokens": schedule.steps * schedule.batch_tokens, "final_loss": self.loss,
            schedule.evaluation_name: self.evaluation, "tokens_per_s": self.tokens_per_s, "mfu": self.mfu,
            "training_s": self.seconds, **self.time_split, "parameters": parameters,
            "batch_tokens": schedule.batch_tokens, "sequence_len": schedule.sequence_len,
            "world_size": world_size, "resumed_from_step": self.resumed_from_step, **self.core,
        }  # fmt: skip

    def write(self, out: Path, model: GPT, vocabulary: Path) -> None:
        """Writes the files that a base and a chat model share: weights, architecture, vocabulary and metrics."""
        save_model(out, model)
        shutil.copyfile(vocabulary, out / "vocabulary.json")
        (out / "metrics.jsonl").write_text("\n".join(self.history) + "\n")


def train(job: Job, world: World, model: GPT, optimizer: Optimizer, schedule: Schedule, setup: str) -> Trained:
    """Trains to the end of the schedule, from the newest complete checkpoint if there is one.

    `setup` describes the device setup for the log. Raises `Diverged` (see `Guard`), `BadSource` for a batch without
    counted tokens, `NotEnoughMemory`, and `Preempted`, after saving a checkpoint, when a rank received a TERM.
    """
    try:
        return _Loop(job, world, model, optimizer, schedule, setup).run()
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise does_not_fit(model, schedule.micro_batch_rows, schedule.sequence_len, world.device) from error
    finally:
        gc.enable()
        gc.unfreeze()


class _Loop:
    def __init__(
        self, job: Job, world: World, model: GPT, optimizer: Optimizer, schedule: Schedule, setup: str
    ) -> None:
        self.job, self.world, self.model, self.optimizer, self.schedule = job, world, model, optimizer, schedule
        self.state = TrainState(loss_scale=LossScale() if model.compute_dtype == torch.float16 else None)
        self.tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        self.tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.state().items()}
        self.tensors |= schedule.more_tensors
        self.checkpoints = Checkpoints(
            job.checkpoints, Path(job.folder) / f"spool-{world.rank}", job.compute.checkpoints.keep,
            job.compute.checkpoints.keep_every_steps, {"config": job.config, "world_size": world.world_size},
        )  # fmt: skip
        self.guard = Guard(schedule.guard)
        self.watchdog = Watchdog(job, world.rank, job.compute.supervision.watchdog_timeout_s)
        self.metrics = Metrics(job, self.state.history, writes=world.is_first)
        self.clock, self.throughput = Clock(), Throughput(schedule.batch_tokens)
        self.unread: list[Tensor] = []
        """Results of `optimizer_step` that are still on the device."""
        self.gradient_norms = (math.nan, math.nan)
        """Gradient norms of the last step: of Muon's matrices, and of AdamW's parameters."""
        self._log_message(f"{setup}, micro-batches of {schedule.micro_batch_rows} rows; waiting for the first")
        self._resume()
        self.loader = self._open_loader(self.state.rows_consumed)
        self.read_at = time.monotonic()
        """Time of the last read of the losses."""

    def run(self) -> Trained:
        state, steps, every_steps = self.state, self.schedule.steps, self.schedule.evaluate_every_steps
        start, saved_at = state.step, time.monotonic()
        last: tuple[int, float] | None = None  # step and result of the last evaluation
        try:
            if self.schedule.evaluate_first and not start:
                self._log_first(self._evaluate())
            if 0 < start < steps and self._core_is_due() and CORE_QUESTIONS not in json.loads(state.history[-1]):
                self.metrics.add_to_last(**(self._core() or {}))  # a stop had come first
                self.read_at = time.monotonic()
            while state.step < steps and not self.schedule.stops_early():
                rates = self.schedule.rates(state.step)
                self.unread.append(
                    optimizer_step(
                        self.model, self.optimizer, self.loader, rates, self.clock, state.loss_scale,
                        self.schedule.objective,
                    )
                )  # fmt: skip
                state.step += 1
                self.watchdog.heartbeat()
                evaluate, core_is_due = every_steps > 0 and state.step % every_steps == 0, self._core_is_due()
                is_read = evaluate or core_is_due or state.step % self.job.compute.tracking.log_every_steps == 0
                if not is_read and state.step < steps:
                    continue
                if not self._read_losses() or state.step == steps:
                    continue
                evaluation = self._evaluate() if evaluate else None
                last = last if evaluation is None else (state.step, evaluation)
                self._log_step(evaluation, self._core() if core_is_due else None)
                if stop_requested():
                    self._save()
                    with self.watchdog.paused():
                        self.checkpoints.wait(must=True)
                    raise Preempted
                due = _on_any_rank(time.monotonic() - saved_at > self.job.compute.checkpoints.every_s)
                # training does not wait for a running save: a slow store means fewer checkpoints, not slower steps
                if due and not _on_any_rank(self.checkpoints.busy()):
                    self._save()
                    saved_at = time.monotonic()
                elif due:
                    self._log_warnings()
                self.read_at = time.monotonic()
            if start < steps:
                self._save()  # before the last evaluation: if that fails, no step is lost
            with self.watchdog.paused():
                self.checkpoints.wait()
            core: dict[str, float] | None = {}
            if last is None or last[0] != state.step:
                last = (state.step, self._evaluate())
                core = self._core() if self.schedule.core_every_steps else {}
                if core is None:
                    raise Preempted
                self._log_step(last[1], core)
        finally:
            self.watchdog.stop()
            self.loader.close()
            self.metrics.close()
        return Trained(
            state.smoothed_loss(), last[1], self.throughput.tokens_per_s, self._mfu(), state.seconds,
            self.clock.split(), core, start, state.step, state.history,
        )  # fmt: skip

    # --- losses -------------------------------------------------------------------------------------------------------

    def _read_losses(self) -> bool:
        """Reads the results of the steps since the last read, and checks them; False after a rollback."""
        state = self.state
        results = torch.stack(self.unread).tolist()  # the only place where the host waits for the device
        self.unread.clear()
        for step, (nats, counted, matrix_square, other_square) in enumerate(results, state.step - len(results) + 1):
            if not counted and not self.schedule.may_be_empty:
                raise BadSource(
                    "A whole batch has no counted token: every loss mask is empty.", hint="Check the conversations."
                )
            if not counted:
                self._log_message(f"step {step} has nothing to train on: no update")
            loss, self.gradient_norms = nats / max(counted, 1), (math.sqrt(matrix_square), math.sqrt(other_square))
            smoothed = state.smoothed_loss(step - 1) if step > 1 else 0.0
            try:
                self.guard.check(step, loss, sum(self.gradient_norms), smoothed)
            except Diverged as error:
                self._roll_back(error)
                return False
            state.add_loss(loss)
        seconds = time.monotonic() - self.read_at
        state.seconds += seconds
        if not self.throughput.steps:  # after the first read: later collections would take up to half a second each
            gc.collect()
            gc.freeze()
            gc.disable()
        self.throughput.add(len(results), seconds)
        return True

    def _roll_back(self, error: Diverged) -> None:
        """Returns to the last checkpoint, and skips the rows since; or raises the error."""
        if not self.guard.may_roll_back():
            raise error
        position = self.loader.rows_consumed
        with self.watchdog.paused():
            self.checkpoints.wait()
            resumed = self._resume()
        if not resumed:
            raise Diverged(error.message, hint="There was no checkpoint yet to roll back to. " + error.hint)
        self.loader.close()
        self.loader = self._open_loader(position)
        self.read_at = time.monotonic()
        self._log_message(f"rolled back to step {self.state.step}: {error.message}")

    def _evaluate(self) -> float:
        with self.clock.counting("evaluation"), self.watchdog.paused():
            self.model.eval()
            evaluation = self.schedule.evaluate(self.state.step)
            self.model.train()
        gc.collect()
        return evaluation

    def _core_is_due(self) -> bool:
        every_steps = self.schedule.core_every_steps
        return every_steps > 0 and self.state.step % every_steps == 0

    def _core(self) -> dict[str, float] | None:
        assert self.schedule.core
        with self.clock.counting("evaluation"), self.watchdog.paused():
            core = self.schedule.core(self._log_message)
        gc.collect()
        return core

    # --- logging ------------------------------------------------------------------------------------------------------

    def _log_step(self, evaluation: float | None, core: dict[str, float] | None) -> None:
        state, schedule, speed = self.state, self.schedule, self.throughput.tokens_per_s
        steps_per_s = self.throughput.steps_per_s
        left_s = (schedule.steps - state.step) / steps_per_s if steps_per_s else 0.0
        matrices, others = self.gradient_norms
        more = schedule.more_numbers()
        self.metrics.event(
            state.step, schedule.steps,
            _message(state.smoothed_loss(), evaluation, schedule.evaluation_name, speed, left_s, more.get("reward")),
            loss=state.loss, smoothed_loss=state.smoothed_loss(), gradient_norm=math.hypot(matrices, others),
            matrix_gradient_norm=matrices, other_gradient_norm=others,
            lr_multiplier=schedule.rates(state.step - 1).lr_multiplier,
            tokens=state.step * schedule.batch_tokens or None, tokens_per_s=speed or None, mfu=self._mfu(),
            seconds=state.seconds, memory_bytes=memory_bytes(self.world.device),
            rows_consumed=self.loader.rows_consumed, epoch=self.loader.epoch,
            loss_scale=state.loss_scale.factor if state.loss_scale else None,
            **self.clock.split(), **{schedule.evaluation_name: evaluation}, **(core or {}), **more,
        )  # fmt: skip

    def _log_first(self, evaluation: float) -> None:
        name = self.schedule.evaluation_name
        message = f"before training: {name.replace('_', ' ')} {evaluation:.4f}"
        self.metrics.event(0, self.schedule.steps, message, **{name: evaluation}, **self.schedule.more_numbers())

    def _log_message(self, message: str) -> None:
        self.metrics.message(self.state.step, self.schedule.steps, message)

    def _log_warnings(self) -> None:
        for warning in self.checkpoints.warnings:
            self._log_message(warning)
        self.checkpoints.warnings.clear()

    def _mfu(self) -> float | None:
        peak = peak_flops(self.world.device)
        flops = self.throughput.tokens_per_s * self.model.architecture.flops_per_token
        return flops / (peak * self.world.world_size) if peak else None

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _resume(self) -> bool:
        """Restores the newest complete checkpoint, if there is one."""
        saved = self.checkpoints.resume(self.tensors)
        self._log_warnings()
        if saved is None:
            return False
        self.state.restore(saved)
        self._log_message(f"resuming from the checkpoint at step {saved.step}")
        return True

    def _save(self) -> None:
        with self.clock.counting("checkpoint"), self.watchdog.paused():
            if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
                raise Diverged(f"A weight is not finite after step {self.state.step}.", hint=LOWER_THE_RATES)
            self.state.rows_consumed = self.loader.rows_consumed
            self.checkpoints.save(
                self.state.step, self.state.rows_consumed, self.tensors, self.state.numbers(), list(self.state.history)
            )
        self._log_warnings()

    def _open_loader(self, row: int) -> BatchSource:
        self.unread.clear()
        return self.schedule.open_source(row, self.state.step)


def _on_any_rank(here: bool) -> bool:
    """Whether it is true on any rank: saving is collective, and the clocks of ranks differ."""
    return sum_over_ranks(float(here))[0] > 0


def _message(
    loss: float, evaluation: float | None, name: str, tokens_per_s: float, left_s: float, reward: float | None
) -> str:
    parts = [f"loss {loss:.3f}" if reward is None else f"reward {reward:.3f}"]
    if evaluation is not None:
        parts.append(f"{name.replace('_', ' ')} {evaluation:.4f}")
    minutes, seconds = divmod(round(left_s), 60)
    parts += [f"{tokens_per_s:,.0f} tokens/s"] if tokens_per_s else []
    parts += [f"{minutes}:{seconds:02} left"]
    return " · ".join(parts)
