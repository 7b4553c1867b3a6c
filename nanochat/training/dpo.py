"""The worker of preference optimization: `python -m nanochat.training.dpo job.json`, under torchrun.

It trains a chat model on pairs of answers, so that it prefers the chosen ones more than at the start: DPO
(arXiv:2305.18290). `docs/preferences.md` explains it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.config.preferences import DPOConfig
from nanochat.errors import BadConfig, BadSource
from nanochat.model.files import load_model
from nanochat.model.gpt import GPT
from nanochat.optim.optimizer import build_optimizer
from nanochat.optim.schedule import rl_rates
from nanochat.rl.pair_loss import PairBatch, PairStatistics, answer_logprobs, pair_batch, pair_loss
from nanochat.rl.pairs import HELD_OUT, TRAIN, RenderedPair, by_length, read, rendered
from nanochat.rl.problems import ProblemOrder
from nanochat.scaling import Hyperparameters
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.training.device_setup import compute_dtype, prepare_for_device
from nanochat.training.loop import Schedule, train
from nanochat.training.micro_batch import micro_batch_rows
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, main, sum_over_ranks


def dpo(job: Job, world: World) -> dict[str, Any]:
    """Trains a chat model on pairs; returns the stage's metrics."""
    config = DPOConfig.model_validate(job.config)
    if world.world_size > config.pairs_per_step:
        raise BadConfig(
            f"A step of {config.pairs_per_step} pairs cannot be shared by {world.world_size} ranks.",
            hint="Raise `dpo.pairs_per_step`.",
        )
    base = job.input("base")
    tokenizer = Tokenizer.load(base / "vocabulary.json")
    model = load_model(base, world.device, compute_dtype(config.precision, world.device))
    stored = [read(job.input("pairs") / name) for name in (TRAIN, HELD_OUT)]
    max_tokens = model.architecture.sequence_len
    pairs, held_out = (rendered(tokenizer, some, max_tokens) for some in stored)
    if not pairs or not held_out:
        raise BadSource(
            f"All pairs {'to train on' if not pairs else 'that are held out'} are longer than the {max_tokens:,} "
            "tokens of the model.",
            hint="Use shorter pairs.",
        )
    longest = max(pair.tokens for pair in (*pairs, *held_out))
    steps = max(1, round(config.epochs * len(pairs) / config.pairs_per_step))
    hyperparameters = Hyperparameters(model.architecture, 0, steps, 1.0, 0.0)
    optimizer = build_optimizer(model, config.optimizer, hyperparameters, exact=job.compute.parallelism.exact)
    micro = micro_batch_rows(job.compute, model, 2 * longest, config.pairs_per_step, world)
    # not compiled: each batch has another shape
    setup = prepare_for_device(
        model, config.precision, job.compute.kernels.model_copy(update={"compile": "off"}), world.device
    )
    of_training = Pairs(model, pairs, micro, tokenizer.bos, world)
    of_evaluation = Pairs(model, held_out, micro, tokenizer.bos, world)
    order = ProblemOrder([0] * len(pairs), [1.0], config.seed)
    statistics = PairStatistics()
    evaluated: dict[str, float] = {}
    """Of the last evaluation."""
    unlogged: dict[str, float] = {}

    @torch.no_grad()
    def evaluate(step: int) -> float:
        found = PairStatistics()
        for batch in of_evaluation.mine(range(len(held_out))):
            pair_loss(model, batch, config.beta, found)
        loss, numbers = _means(found, "validation")
        evaluated.update(numbers)
        unlogged.update(numbers)
        return loss

    def more_numbers() -> dict[str, float]:
        numbers = {**unlogged, **_means(statistics, "pair")[1]}
        unlogged.clear()
        return numbers

    def objective(network: GPT, batch: PairBatch) -> Tensor:
        return pair_loss(network, batch, config.beta, statistics)

    schedule = Schedule(
        open_source=lambda start, step: PairSource(of_training, order, config.pairs_per_step, start),
        steps=steps,
        batch_tokens=0,
        sequence_len=longest,
        micro_batch_rows=2 * micro,
        rates=lambda step: rl_rates(step, steps, config.lr_fraction),
        evaluate=evaluate,
        evaluation_name="validation_loss",
        evaluate_every_steps=config.evaluate_every_steps,
        guard=config.guard,
        objective=objective,
        evaluate_first=True,
        more_numbers=more_numbers,
    )
    trained = train(job, world, model, optimizer, schedule, setup)
    if not world.is_first:
        return {}
    trained.write(Path(job.out), model, base / "vocabulary.json")
    return {
        "validation_loss": trained.evaluation, **evaluated, "final_loss": trained.loss, "pairs": len(pairs),
        "held_out_pairs": len(held_out), "too_long_pairs": sum(map(len, stored)) - len(pairs) - len(held_out),
        "steps": trained.steps, "parameters": hyperparameters.parameters, "training_s": trained.seconds,
        **trained.time_split, "world_size": world.world_size, "resumed_from_step": trained.resumed_from_step,
    }  # fmt: skip


class Pairs:
    """Pairs with the log-probabilities of their answers under the model as it is now: that at the start."""

    def __init__(self, model: GPT, pairs: Sequence[RenderedPair], micro: int, padding: int, world: World) -> None:
        """`micro` is the number of pairs of a micro-batch. Collective."""
        self.world = world
        self._pairs, self._micro, self._padding = pairs, micro, padding
        self._references = [(0.0, 0.0)] * len(pairs)  # until they are measured
        self._references = self._measured(model)

    @torch.no_grad()
    def _measured(self, model: GPT) -> list[tuple[float, float]]:
        values: list[float] = [0.0] * (2 * len(self._pairs))
        mine = self._places_of_rank(range(len(self._pairs)))
        batches = self._batches(mine, 1.0)
        found = [
            value for each in batches for value in answer_logprobs(model, each.inputs_BT, each.targets_BT).tolist()
        ]
        for number, place in enumerate(mine):
            values[2 * place : 2 * place + 2] = found[2 * number : 2 * number + 2]
        summed = sum_over_ranks(*values)
        return list(zip(summed[0::2], summed[1::2], strict=True))

    def mine(self, places: Sequence[int]) -> Iterator[PairBatch]:
        """The micro-batches of this rank, of a step that has the pairs at these places."""
        tokens = sum(self._pairs[place].trained_tokens for place in places)
        return self._batches(self._places_of_rank(places), tokens / len(places))

    def _places_of_rank(self, places: Sequence[int]) -> list[int]:
        return by_length(self._pairs, places)[self.world.rank :: self.world.world_size]

    def _batches(self, places: Sequence[int], share: float) -> Iterator[PairBatch]:
        for start in range(0, len(places), self._micro):
            part = places[start : start + self._micro]
            pairs, references = [self._pairs[place] for place in part], [self._references[place] for place in part]
            yield pair_batch(pairs, references, share, self._padding, self.world.device)


class PairSource:
    """Steps of preference optimization; see `BatchSource`. `rows_consumed` counts pairs."""

    def __init__(self, pairs: Pairs, order: ProblemOrder, pairs_per_step: int, start: int) -> None:
        self.world_size, self.device = pairs.world.world_size, pairs.world.device
        self.rows_consumed = start
        self._pairs, self._order, self._pairs_per_step = pairs, order, pairs_per_step

    @property
    def epoch(self) -> float:
        return self.rows_consumed / self._order.round_size

    def close(self) -> None:
        """Nothing runs between two steps."""

    def step(self) -> list[PairBatch]:
        places = self._order.find(self.rows_consumed, self._pairs_per_step)
        self.rows_consumed += self._pairs_per_step
        return list(self._pairs.mine(places))


def _means(statistics: PairStatistics, prefix: str) -> tuple[float, dict[str, float]]:
    """The mean loss, and the other means with a prefix to their names, over the pairs on all ranks. Collective."""
    pairs, loss, *sums = sum_over_ranks(*statistics.take())
    if not pairs:
        return 0.0, {}
    return loss / pairs, {
        f"{prefix}_{name}": total / pairs for name, total in zip(PairStatistics.NAMES[2:], sums, strict=True)
    }


if __name__ == "__main__":
    main(dpo)
