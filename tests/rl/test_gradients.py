"""Gradients: equal for any micro-batch and ranks, equal to a plain reference, and right on policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from nanochat.config.rl import RLConfig
from nanochat.inference.engine import EngineSettings
from nanochat.model.gpt import GPT
from nanochat.rl.advantages import advantages, is_live
from nanochat.rl.objective import RolloutBatch, TokenStatistics, rl_loss, token_logprobs
from nanochat.rl.rollouts import Rollout
from nanochat.training.rollout_source import trained_distribution
from nanochat.workers.ranks import World
from tests.inference.models import TOKENIZER, built
from tests.rl.tiny import config, gradients, largest_difference, problems, source

REWARDS = [[1.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]]
"""Of three groups, one is dead."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return problems(tmp_path_factory.mktemp("problems") / "problems")


def rollouts(folder: Path, of: RLConfig, model: GPT) -> list[list[Rollout]]:
    """The groups of the first step."""
    made = source(folder, of, model)
    return made._sampled()


def batches(
    folder: Path, of: RLConfig, model: GPT, groups: list[list[Rollout]], rank: int = 0, ranks: int = 1, micro: int = 4,
    rewards: Any = REWARDS, exact: bool = False,
) -> list[RolloutBatch]:  # fmt: skip
    """The micro-batches of a rank for these rewards."""
    made = source(
        folder, of, model, world=World(rank, ranks, torch.device("cpu")), micro=micro, exact=exact,
        reference=model if of.used_loss.kl else None,
    )  # fmt: skip
    counts = np.array([[made._counts(rollout) for rollout in group] for group in groups])
    values = advantages(np.array(rewards), counts, of.used_loss)
    return made._batches(groups, values, counts, is_live(np.array(rewards), counts))


def of_three(**fields: Any) -> RLConfig:
    return config(prompts_per_step=3, **fields)


LOSSES: dict[str, dict[str, Any]] = {
    "default": {}, "sequence": {"divided_by": "sequence"}, "constant": {"divided_by": "constant"},
    "pass": {"divided_by": "pass", "dead_groups": "keep"}, "clip": {"ratio": "clip"}, "cispo": {"ratio": "cispo"},
    "gspo": {"ratio": "gspo", "divided_by": "sequence"}, "group_sd": {"advantage": "group_sd"}, "kl": {"kl": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_are_equal_at_micro_batches_1_4_16_and_on_1_and_2_ranks(folder: Path, loss: dict[str, Any]) -> None:
    """Case 34. A micro-batch of 16 has all rows of the step; one rank of two has every second row."""
    of, model = of_three(loss=loss, sampling={"max_tokens": 12}), built(sequence_len=64)
    groups = rollouts(folder, of, model)
    assert len({len(rollout.ids) for group in groups for rollout in group}) > 1
    found = batches(folder, of, model, groups, micro=16)
    one, counted = gradients(model, found, of), sum(int((each.targets_BT >= 0).sum()) for each in found)
    for micro in (1, 4):
        assert largest_difference(one, gradients(model, batches(folder, of, model, groups, micro=micro), of)) < 1e-6
    parts = [gradients(model, batches(folder, of, model, groups, rank, 2), of, counted) for rank in range(2)]
    summed = {name: parts[0][name] + parts[1][name] for name in one}
    assert largest_difference(one, summed) < 1e-6


def plain_nanochat(model: GPT, groups: list[list[Rollout]], rewards: Any) -> dict[str, torch.Tensor]:
    """nanochat's loss as it is described: one prompt at a time, in passes of 8 answers, full softmax."""
    model.zero_grad()
    for group, some in zip(groups, rewards, strict=True):
        advantage = torch.tensor(some) - torch.tensor(some).mean()
        passes = -(-len(group) // 8)
        for start in range(0, len(group), 8):
            total, valid = torch.zeros(()), 0
            for rollout, value in zip(group[start : start + 8], advantage[start : start + 8], strict=True):
                answer = rollout.ids[:-1] if rollout.ended else rollout.ids  # the end token is not trained
                ids = torch.tensor([[*rollout.prompt.ids, *answer]])
                logprobs = model(ids[:, :-1])[0].log_softmax(-1)
                for place, (token, own) in enumerate(zip(answer, rollout.sampled, strict=False)):
                    if own:
                        total = total + logprobs[len(rollout.prompt.ids) - 1 + place, token] * value
                        valid += 1
            (-total / (max(valid, 1) * passes * len(groups))).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_the_preset_nanochat_has_the_gradient_of_a_plain_reference(folder: Path) -> None:
    """To 1e-6, oddities included: NC#810, the normalization per pass, top-k 50 sampled and the full softmax trained."""
    of, model = of_three(preset="nanochat", group_size=12), built(sequence_len=300, seed=4)
    made = source(folder, of, model, engine=EngineSettings(slots=36, context_tokens=300))
    groups = made._sampled()
    assert any(rollout.ended for group in groups for rollout in group)
    rewards = [[float((n * 7 + p) % 3 == 0) for n in range(12)] for p in range(2)] + [[0.0] * 12]
    found = batches(folder, of, model, groups, rewards=rewards, micro=5)
    plain, ours = plain_nanochat(model, groups, rewards), gradients(model, found, of)
    assert max(float(gradient.abs().max()) for gradient in plain.values()) > 1e-3
    assert max(float((plain[name] - ours[name]).abs().max()) for name in plain) < 1e-6


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.6, 50), (2.0, 3)])
def test_the_ratio_is_1_on_policy(folder: Path, temperature: float, top_k: int) -> None:
    """Case 39 (TRL#4159): behaviour log-probabilities are those of the real temperature and top-k."""
    of, model = (
        of_three(sampling={"temperature": temperature, "top_k": top_k, "max_tokens": 12}),
        built(sequence_len=64),
    )
    groups = rollouts(folder, of, model)
    ratios = [ratio for batch in batches(folder, of, model, groups) for ratio in ratios_of(model, batch, of)]
    assert len(ratios) > 50
    assert max(abs(ratio - 1) for ratio in ratios) < 1e-4


def test_log_probabilities_shifted_by_one_are_caught_by_the_ratio(folder: Path) -> None:
    """Case 41 (ms-swift#8196)."""
    of, model = of_three(), built(sequence_len=64)
    (batch, *_) = batches(folder, of, model, rollouts(folder, of, model))
    shifted = batch._replace(behaviour_BT=batch.behaviour_BT.roll(1, dims=1))
    assert max(abs(ratio - 1) for ratio in ratios_of(model, shifted, of)) > 0.5
    statistics = TokenStatistics()
    rl_loss(model, shifted, of.used_loss, 1.0, 0, statistics)
    sums = dict(zip(TokenStatistics.NAMES, statistics.take(), strict=True))
    assert sums["ratio_error"] / sums["tokens"] > 0.1  # it is logged as `policy_ratio_error`


def ratios_of(model: GPT, batch: RolloutBatch, of: RLConfig) -> list[float]:
    with torch.no_grad():
        logprobs, _ = token_logprobs(model, batch.inputs_BT, batch.targets_BT, *trained_distribution(of))
    return (logprobs - batch.behaviour_BT[batch.targets_BT >= 0]).exp().tolist()


def test_the_sampled_end_token_is_in_the_loss_and_padding_is_not(folder: Path) -> None:
    """Case 32 (NC#810, TRL#4970): rows of unequal length, padded with the token that also ends answers."""
    of, model = of_three(group_size=12, sampling={"max_tokens": 200}), built(sequence_len=300, seed=4)
    made = source(folder, of, model, engine=EngineSettings(slots=36, context_tokens=300))
    groups = made._sampled()
    rewards = [[float(n % 2) for n in range(12)] for _ in range(3)]
    ended = [rollout for group in groups for rollout in group if rollout.ended]
    end_tokens = {rollout.ids[-1] for rollout in ended}
    assert TOKENIZER.bos in end_tokens and len(end_tokens) > 1  # it is also the padding, and not the only end token
    found = batches(folder, of, model, groups, rewards=rewards, micro=36)
    rows = [[each[each >= 0].tolist() for each in batch.targets_BT] for batch in found]
    assert sorted(row for some in rows for row in some) == sorted(list(each.ids) for group in groups for each in group)
    counted = sum(int((each.targets_BT >= 0).sum()) for each in found)
    assert counted == sum(len(rollout.ids) for group in groups for rollout in group)
    without = batches(folder, of.model_copy(update={"loss": of.loss.model_copy(update={"end_token": False})}), model,
                      groups, rewards=rewards, micro=36)  # fmt: skip
    assert counted - sum(int((each.targets_BT >= 0).sum()) for each in without) == len(ended)


def test_more_padding_changes_nothing(folder: Path) -> None:
    of, model = of_three(), built(sequence_len=64)
    (batch, *_) = batches(folder, of, model, rollouts(folder, of, model), micro=16)
    padded = batch._replace(
        inputs_BT=pad(batch.inputs_BT, (0, 9), value=3), targets_BT=pad(batch.targets_BT, (0, 9), value=-1),
        behaviour_BT=pad(batch.behaviour_BT, (0, 9)), reference_BT=pad(batch.reference_BT, (0, 9)),
    )  # fmt: skip
    assert largest_difference(gradients(model, [batch], of), gradients(model, [padded], of)) < 1e-6


def plain_default(model: GPT, groups: list[list[Rollout]], rewards: list[list[float]]) -> dict[str, torch.Tensor]:
    """Rewards minus the mean of their group, over all tokens of the groups whose rewards differ; on policy."""
    model.zero_grad()
    total, tokens = torch.zeros(()), 0
    for group, some in zip(groups, rewards, strict=True):
        if len(set(some)) < 2:
            continue
        for rollout, value in zip(group, some, strict=True):
            ids = torch.tensor([[*rollout.prompt.ids, *rollout.ids]])
            logprobs = model(ids[:, :-1])[0, len(rollout.prompt.ids) - 1 :].log_softmax(-1)
            answer = logprobs.gather(1, torch.tensor(rollout.ids)[:, None])
            total = total - (value - sum(some) / len(some)) * answer.sum()
            tokens += len(rollout.ids)
    (total / tokens).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_truncated_answers_are_out_of_numerator_and_denominator_if_masked(folder: Path) -> None:
    """Case 35 (TRL#6369): the gradient is that of a step which never had them."""
    masked = {"truncated": "mask", "correction_limit": 0}
    of, model = of_three(loss=masked, group_size=12, sampling={"max_tokens": 60}), built(300, seed=4)
    made = source(folder, of, model, engine=EngineSettings(slots=36, context_tokens=300))
    groups = made._sampled()
    truncated = [[rollout.truncated for rollout in group] for group in groups]
    assert 3 < sum(map(sum, truncated)) < 33
    rewards = [[float((n + p) % 2) for n in range(12)] for p in range(3)]
    found = batches(folder, of, model, groups, rewards=rewards, micro=36)
    finished = [[rollout for rollout in group if not rollout.truncated] for group in groups]
    counted = sum(int((each.targets_BT >= 0).sum()) for each in found)
    live = [
        group for group, some, cut in zip(finished, rewards, truncated, strict=True)
        if len({value for value, out in zip(some, cut, strict=True) if not out}) > 1
    ]  # fmt: skip
    assert counted == sum(len(rollout.ids) for group in live for rollout in group)
    kept = [
        [v for v, out in zip(some, cut, strict=True) if not out] for some, cut in zip(rewards, truncated, strict=True)
    ]
    # by rounding: the reference adds all tokens one by one
    assert largest_difference(plain_default(model, finished, kept), gradients(model, found, of)) < 1e-5


def test_a_clipped_ratio_has_no_gradient(folder: Path) -> None:
    """PPO, arXiv:1707.06347: where the policy has already moved as far as allowed in the direction of the advantage."""
    of, model = of_three(loss={"ratio": "clip"}), built(sequence_len=64)
    (batch, *_) = batches(folder, of, model, rollouts(folder, of, model), micro=16)
    moved = batch._replace(
        behaviour_BT=batch.behaviour_BT - 0.5 * batch.advantage_B.sign()[:, None]  # ratio e^0.5, or e^-0.5
    )
    assert max(float(each.abs().max()) for each in gradients(model, [moved], of).values()) == 0


def test_the_correction_is_truncated(folder: Path) -> None:
    of, model = of_three(), built(sequence_len=64)
    (batch, *_) = batches(folder, of, model, rollouts(folder, of, model), micro=16)
    base = gradients(model, [batch], of)
    off = gradients(model, [batch._replace(behaviour_BT=batch.behaviour_BT - 5)], of)
    assert largest_difference({name: 2 * value for name, value in base.items()}, off) < 1e-3


def test_the_kl_term_pulls_back_to_the_start(folder: Path) -> None:
    """k3 times the ratio: its gradient at the start is 0, and against a model that has moved it is not (TRL#6503)."""
    of, model, moved = of_three(loss={"kl": 1.0}), built(sequence_len=64), built(sequence_len=64, seed=9)
    groups = rollouts(folder, of, model)
    for reference, pulls in ((model, False), (moved, True)):
        made = source(folder, of, model, micro=16, reference=reference)
        found = made._batches(groups, np.zeros((3, 4)), np.ones((3, 4), bool), np.zeros(3, bool))
        largest = max(float(each.abs().max()) for each in gradients(model, found, of).values())
        assert (largest > 1e-3) == pulls, (reference is model, largest)
