"""Advantages of answers, and the shares of their tokens in the loss; arithmetic only, over a whole step.

    loss of a step = - sum over tokens of  share * advantage * log-probability

Everything that depends on other answers is in shares and advantages, which are computed over all ranks before the first
pass. So the gradient does not depend on micro-batches or ranks.

Shapes: P prompts · G answers of a group
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanochat.config.rl import RLLoss

Floats = NDArray[np.float64]
SD_FLOOR = 1e-6
NANOCHAT_PASS = 8
"""Answers of a pass in nanochat."""


def advantages(rewards_PG: Floats, counts_PG: NDArray[np.bool_], loss: RLLoss) -> Floats:
    """The advantage of each answer, (P, G); 0 where the answer does not count.

    Rewards minus the mean of those that count in the group, divided by what the config names.
    """
    rewards_PG = np.where(counts_PG, rewards_PG, 0.0)
    number_P1 = counts_PG.sum(1, keepdims=True).clip(1)
    centered_PG = np.where(counts_PG, rewards_PG - rewards_PG.sum(1, keepdims=True) / number_P1, 0.0)
    centered_PG[~is_live(rewards_PG, counts_PG)] = 0.0  # exactly: a mean of equal rewards may be rounded
    if loss.advantage == "group_sd":
        return centered_PG / (np.sqrt((centered_PG**2).sum(1, keepdims=True) / number_P1) + SD_FLOOR)
    if loss.advantage == "batch_sd":
        return centered_PG / (np.sqrt((centered_PG**2).sum() / max(counts_PG.sum(), 1)) + SD_FLOOR)
    return centered_PG


def is_live(rewards_PG: Floats, counts_PG: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the answers of a group that count have different rewards, (P,)."""
    highest = np.where(counts_PG, rewards_PG, -np.inf).max(1)
    lowest = np.where(counts_PG, rewards_PG, np.inf).min(1)
    return highest > lowest


def shares(lengths: Sequence[int], groups: Sequence[int], samples: Sequence[int], loss: RLLoss, max_tokens: int,
           prompts: int) -> Floats:  # fmt: skip
    """The share of each token of an answer in the loss, for each answer of the step that is trained on.

    `lengths` are the numbers of its tokens in the loss, `groups` and `samples` the numbers of its prompt and of the
    answer in its group, `prompts` the number of prompts of the step.
    """
    tokens = np.array(lengths, np.float64)
    match loss.divided_by:
        case "tokens":
            return np.full(len(tokens), 1 / max(tokens.sum(), 1))
        case "sequence":
            return 1 / (tokens.clip(1) * max(len(tokens), 1))
        case "constant":
            return np.full(len(tokens), 1 / (max_tokens * max(len(tokens), 1)))
        case "pass":
            passes = [(group, sample // NANOCHAT_PASS) for group, sample in zip(groups, samples, strict=True)]
            of_pass: dict[tuple[int, int], float] = {}
            for each, count in zip(passes, tokens, strict=True):
                of_pass[each] = of_pass.get(each, 0.0) + count
            in_group: dict[int, int] = {}
            for group, _ in of_pass:
                in_group[group] = in_group.get(group, 0) + 1
            return np.array([1 / (max(of_pass[each], 1) * in_group[each[0]] * prompts) for each in passes])
