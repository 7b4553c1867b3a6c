"""What reinforcement learning trains on: at each step, answers that the current weights sample, with their advantages.

Each rank samples and judges the answers to its prompts; then all ranks have all answers, compute advantages and shares
of the whole step, and train on every n-th answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nanochat.config.rl import RLConfig
from nanochat.data.loader import IGNORED
from nanochat.inference.engine import Engine
from nanochat.model.gpt import GPT
from nanochat.rl.advantages import advantages, is_live, shares
from nanochat.rl.objective import RolloutBatch, TokenStatistics, token_logprobs
from nanochat.rl.problems import Problem, ProblemOrder
from nanochat.rl.rewards import Rewards, refuse_failures
from nanochat.rl.rollout_table import Judged, as_table
from nanochat.rl.rollouts import Prompt, Rollout
from nanochat.rl.sampling import sample_groups
from nanochat.training.rollout_files import RolloutFiles
from nanochat.workers.ranks import World, from_all_ranks, sum_over_ranks

PADDED_TO = 16
"""Rows of a micro-batch are padded to a multiple of this."""


@dataclass
class Sampling:
    """The engine, and what answers are sampled from and judged by."""

    config: RLConfig
    model: GPT
    engine: Engine
    problems: Sequence[Problem]
    prompt_ids: Sequence[tuple[int, ...]]
    """The rendered prompt of each problem."""
    rewards: Rewards
    world: World

    def groups(self, prompts: Sequence[Prompt], answers: int, step: int) -> list[list[Rollout]]:
        """The judged answers to the prompts, on all ranks. Raises `BadReward` for a failed reward, if it is to stop."""
        config, world = self.config, self.world
        sampled = sample_groups(
            self.engine, prompts[world.rank :: world.world_size], config.used_sampling, answers, config.seed, step
        )
        given = [rollout.given for group in sampled for rollout in group]
        found = self.rewards.of(given)
        if config.bad_reward == "stop":
            refuse_failures(found, given)
        rewards = iter(found)
        mine = [[rollout.rewarded(next(rewards)) for rollout in group] for group in sampled]
        everywhere = [group for part in from_all_ranks(mine) for group in part]
        return sorted(everywhere, key=lambda group: group[0].prompt.position)

    def use_weights(self) -> None:
        """The engine samples with the model's current weights from here on, and forgets what it has cached."""
        self.engine.replace_model(self.model)


class RolloutSource:
    """Steps of reinforcement learning; see `BatchSource`. `rows_consumed` counts the prompts that were sampled."""

    def __init__(
        self, sampling: Sampling, order: ProblemOrder, reference: GPT | None, files: RolloutFiles,
        statistics: StepStatistics, micro_batch_rows: int, *, exact: bool, start: int, step: int,
    ) -> None:  # fmt: skip
        """`reference` is the model of the KL term; `step` is the number of the next step."""
        self.world_size, self.device = sampling.world.world_size, sampling.world.device
        self.rows_consumed = start
        self._sampling, self._order, self._reference = sampling, order, reference
        self._files, self._statistics = files, statistics
        self._micro_batch_rows, self._exact, self._step = micro_batch_rows, exact, step
        self._loss = sampling.config.used_loss

    @property
    def epoch(self) -> float:
        return self.rows_consumed / self._order.round_size

    def close(self) -> None:
        """Nothing runs between two steps."""

    def step(self) -> list[RolloutBatch]:
        """The micro-batches of this rank; none on all ranks if all rewards of the step are equal."""
        groups = self._sampled()
        rewards_PG = np.array([[self._reward(rollout) for rollout in group] for group in groups])
        counts_PG = np.array([[self._counts(rollout) for rollout in group] for group in groups])
        advantages_PG = advantages(rewards_PG, counts_PG, self._loss)
        if self._sampling.world.is_first:
            judged = [
                Judged(rollout, rewards_PG[p, g], advantages_PG[p, g])
                for p, group in enumerate(groups)
                for g, rollout in enumerate(group)
            ]
            self._files.keep_rollouts(self._step, as_table(self._step, judged))
        self._statistics.add(groups, rewards_PG, counts_PG)
        self._step += 1
        if not advantages_PG.any() and not self._loss.kl:
            return []
        return self._batches(groups, advantages_PG, counts_PG, is_live(rewards_PG, counts_PG))

    def _sampled(self) -> list[list[Rollout]]:
        """The groups of the step. In place of dead ones, further prompts may be sampled."""
        sampling, wanted = self._sampling, self._sampling.config.prompts_per_step
        sampling.use_weights()
        groups: list[list[Rollout]] = []
        missing = wanted
        for _ in range(self._loss.refill_rounds + 1):
            found = self._order.find(self.rows_consumed, missing)
            prompts = [
                Prompt(self.rows_consumed + n, sampling.problems[problem], sampling.prompt_ids[problem])
                for n, problem in enumerate(found)
            ]
            groups += sampling.groups(prompts, sampling.config.group_size, self._step)
            self.rows_consumed += missing
            missing = wanted - sum(self._is_live(group) for group in groups)
            if not missing:
                break
        return groups

    def _is_live(self, group: Sequence[Rollout]) -> bool:
        rewards = np.array([[self._reward(rollout) for rollout in group]])
        return bool(is_live(rewards, np.array([[self._counts(rollout) for rollout in group]]))[0])

    def _counts(self, rollout: Rollout) -> bool:
        """Whether the answer is in its group and in the loss."""
        assert rollout.reward is not None
        return not rollout.reward.failure and not (rollout.truncated and self._loss.truncated == "mask")

    def _reward(self, rollout: Rollout) -> float:
        assert rollout.reward is not None
        return 0.0 if rollout.truncated and self._loss.truncated == "zero" else rollout.reward.value

    def _batches(
        self, groups: Sequence[Sequence[Rollout]], advantages_PG: NDArray[np.float64], counts_PG: NDArray[np.bool_],
        live_P: NDArray[np.bool_],
    ) -> list[RolloutBatch]:  # fmt: skip
        drops = self._loss.dead_groups == "drop" and not self._loss.kl
        places = [
            (p, g)
            for p, group in enumerate(groups)
            for g in range(len(group))
            if counts_PG[p, g] and (live_P[p] or not drops)
        ]
        masks = {(p, g): self._mask(groups[p][g]) for p, g in places}
        lengths = [sum(masks[place]) for place in places]
        if not sum(lengths):
            return []
        found = shares(
            lengths, [p for p, _ in places], [g for _, g in places], self._loss,
            self._sampling.config.used_sampling.max_tokens, len(groups),
        )  # fmt: skip
        rows = [
            _Row(groups[p][g], masks[p, g], float(advantages_PG[p, g]), float(share) * sum(lengths))
            for (p, g), share in zip(places, found, strict=True)
        ]
        if self._exact:  # sums of the same rows in the same order, however many count
            rest = [(p, g) for p, group in enumerate(groups) for g in range(len(group)) if (p, g) not in masks]
            rows += [_Row(groups[p][g], (False,) * len(groups[p][g].ids), 0.0, 0.0) for p, g in rest]
        rows.sort(key=lambda row: -row.tokens)  # rows of a micro-batch have about one length
        while len(rows) < self.world_size:  # each rank needs a row, if only to take part in the sums
            rows.append(_Row(rows[0].rollout, (False,) * len(rows[0].mask), 0.0, 0.0))
        mine = rows[self._sampling.world.rank :: self.world_size]
        size = self._micro_batch_rows
        return [self._batch(mine[start : start + size]) for start in range(0, len(mine), size)]

    def _mask(self, rollout: Rollout) -> tuple[bool, ...]:
        """For each id of the answer, whether it is in the loss."""
        if rollout.ended and not self._loss.end_token:
            return (*rollout.sampled[:-1], False)
        return rollout.sampled

    def _batch(self, rows: Sequence[_Row]) -> RolloutBatch:
        B, T = len(rows), -(-max(row.tokens - 1 for row in rows) // PADDED_TO) * PADDED_TO
        inputs_BT = np.full((B, T), self._sampling.engine.tokenizer.bos, np.int64)
        targets_BT = np.full((B, T), IGNORED, np.int64)
        behaviour_BT = np.zeros((B, T), np.float32)
        for b, row in enumerate(rows):
            ids = np.array((*row.rollout.prompt.ids, *row.rollout.ids))
            inputs_BT[b, : len(ids) - 1] = ids[:-1]
            start = len(row.rollout.prompt.ids) - 1  # the target at a position is the id after it
            answer = slice(start, start + len(row.rollout.ids))
            targets_BT[b, answer] = np.where(row.mask, row.rollout.ids, IGNORED)
            behaviour_BT[b, answer] = row.rollout.logprobs
        advantage_B = np.array([row.advantage for row in rows], np.float32)
        share_B = np.array([row.share for row in rows], np.float32)
        inputs, targets, behaviour, advantage, share = (
            torch.from_numpy(each).to(self.device)
            for each in (inputs_BT, targets_BT, behaviour_BT, advantage_B, share_B)
        )
        reference = torch.zeros_like(behaviour)
        if self._reference is not None:
            with torch.no_grad():
                distribution = trained_distribution(self._sampling.config)
                reference[targets != IGNORED] = token_logprobs(self._reference, inputs, targets, *distribution)[0]
        return RolloutBatch(inputs, targets, behaviour, reference, advantage, share)


@dataclass(frozen=True)
class _Row:
    rollout: Rollout
    mask: tuple[bool, ...]
    advantage: float
    share: float

    @property
    def tokens(self) -> int:
        return len(self.rollout.prompt.ids) + len(self.rollout.ids)


def trained_distribution(config: RLConfig) -> tuple[float, int]:
    """Temperature and top-k of the log-probabilities in the loss."""
    sampling = config.used_sampling
    return (sampling.temperature, sampling.top_k) if config.used_loss.distribution == "sampled" else (1.0, 0)


class StepStatistics:
    """Numbers about the answers of the steps since the last log line."""

    def __init__(self, of_tokens: TokenStatistics) -> None:
        self.of_tokens = of_tokens
        self._steps: list[dict[str, float]] = []

    def add(
        self, groups: Sequence[Sequence[Rollout]], rewards_PG: NDArray[np.float64], counts_PG: NDArray[np.bool_]
    ) -> None:
        rollouts = [rollout for group in groups for rollout in group]
        counted = rewards_PG[counts_PG]

        def share(test: Callable[[Rollout], bool]) -> float:
            return sum(test(rollout) for rollout in rollouts) / len(rollouts)

        self._steps.append(
            {
                "reward": float(counted.mean()) if len(counted) else 0.0,
                "reward_sd": float(counted.std()) if len(counted) else 0.0,
                "right_share": share(lambda each: each.reward is not None and each.reward.right),
                "dead_group_share": 1 - float(is_live(rewards_PG, counts_PG).mean()),
                "truncated_share": share(lambda each: each.truncated),
                "failed_rewards": sum(bool(each.reward and each.reward.failure) for each in rollouts),
                "answer_tokens": sum(len(each.ids) for each in rollouts) / len(rollouts),
                "sampled_tokens": sum(sum(each.sampled) for each in rollouts),
            }
        )

    def take(self) -> dict[str, float]:
        """Means over the steps since the last call, and over their trained tokens on all ranks. Collective."""
        steps, self._steps = self._steps, []
        found = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]} if steps else {}
        tokens, *sums = sum_over_ranks(*self.of_tokens.take())
        if tokens:
            names = self.of_tokens.NAMES[1:]
            found |= {f"policy_{name}": total / tokens for name, total in zip(names, sums, strict=True)}
        return found
