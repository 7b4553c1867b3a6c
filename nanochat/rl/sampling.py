"""Samples the answers of prompts in groups, with the engine.

A sample is a function of the weights, the seed, the step, the position of its prompt in the order of problems, and its
number in the group; not of the batch, the ranks, or what else is sampled. The answers of a group share the prefill of
their prompt.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence

from nanochat.config.base import MAX_INTEGER
from nanochat.config.rl import RLSampling
from nanochat.inference.engine import Engine
from nanochat.inference.request import Answer, Request, SamplingParameters
from nanochat.rl.rollouts import Prompt, Rollout

EVALUATION = MAX_INTEGER
"""The step in the seeds of evaluations: they use the same random numbers each time."""


def sample_groups(
    engine: Engine, prompts: Sequence[Prompt], sampling: RLSampling, answers: int, seed: int, step: int,
    finished: Callable[[int], None] = lambda number: None,
) -> list[list[Rollout]]:  # fmt: skip
    """The answers to each prompt. `finished` receives the number of prompts that are done."""
    requests = [
        Request(
            prompt=prompt.ids,
            answers=answers,
            sampling=SamplingParameters(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                seed=seed_of(seed, step, prompt.position),
                logprobs=0,
                scaled_logprobs=True,
            ),
        )
        for prompt in prompts
    ]
    groups = engine.complete(requests, finished)
    return [
        [_rollout(engine, prompt, number, answer) for number, answer in enumerate(group)]
        for prompt, group in zip(prompts, groups, strict=True)
    ]


def seed_of(seed: int, step: int, position: int) -> int:
    """The seed of a group: from one seed, all prompts of all steps would draw the same random numbers."""
    digest = hashlib.blake2b(array("q", [seed, step, position]).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & MAX_INTEGER


def _rollout(engine: Engine, prompt: Prompt, number: int, answer: Answer) -> Rollout:
    ends = [] if answer.end is None else [answer.end]
    return Rollout(
        prompt=prompt,
        sample=number,
        ids=(*answer.ids, *(end.token for end in ends)),
        sampled=(*(not forced for forced in answer.forced), *(True for _ in ends)),
        logprobs=(*(each.logprob for each in answer.logprobs), *(end.logprob for end in ends)),
        text=answer.text,
        written=engine.tokenizer.decode(list(answer.ids)),
        truncated=answer.finish == "length",
        ended=bool(ends),
    )
