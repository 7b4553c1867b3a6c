"""Generated answers of an evaluation: all questions in one batch, beside one question after another.

    python benchmarks/evaluation_generation.py             about two minutes on two cores
    python benchmarks/evaluation_generation.py --quick     a few tokens, to see that it runs

The model has the shapes of a d4 with 32,768 ids, in fp32, and random weights; the prompts have the lengths of GSM8K's
questions (40 to 180 tokens), and each answer 128 tokens. Sides:

    batch              `OwnModel.generate`, as the evaluation of chat models uses it
    one, our engine    the same engine with one question at a time
    one, torch         a pass of torch for each token with a cache, one question at a time, as in nanochat's chat_eval

The sides take turns on a part of the questions, and the best of several turns counts. Answers are compared: those of
our engine are equal to the bit; torch sums in another order.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from torch import Tensor

from nanochat.config.training import ModelConfig
from nanochat.evaluation.own_model import OwnModel
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import Request, SamplingParameters
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer

VOCABULARY = 32_768
NOISE = 0.02
"""Added to all weights: some of the initial ones are zero."""


class Cache:
    """Keys and values of one row, as `GPT` uses them."""

    def __init__(self, architecture: Architecture, tokens: int) -> None:
        K, D = architecture.kv_heads, architecture.head_dim
        self.length = tokens
        self.positions_B = torch.zeros(1, dtype=torch.int64)
        self.previous_embedding: Tensor | None = None
        self._kv = torch.zeros(architecture.depth, 2, 1, tokens, K, D)

    def insert(self, layer: int, k_BTKD: Tensor, v_BTKD: Tensor) -> tuple[Tensor, Tensor]:
        start = int(self.positions_B)
        stop = start + k_BTKD.shape[1]
        self._kv[layer, 0, :, start:stop], self._kv[layer, 1, :, start:stop] = k_BTKD, v_BTKD
        return self._kv[layer, 0, :, :stop], self._kv[layer, 1, :, :stop]

    def advance(self, tokens: int) -> None:
        self.positions_B += tokens


def d4() -> tuple[GPT, Tokenizer]:
    tokenizer = Tokenizer.from_merges([])
    stems, merges = list(range(256)), list[tuple[int, int]]()
    while len(merges) < VOCABULARY - tokenizer.vocab_size:
        merges += [(stem, letter) for stem in stems for letter in range(97, 123)]
        stems = list(range(256 + len(merges) - 26 * len(stems), 256 + len(merges)))
    tokenizer = Tokenizer.from_merges(merges[: VOCABULARY - tokenizer.vocab_size])
    model = GPT(Architecture(model=ModelConfig(depth=4), vocab_size=VOCABULARY, sequence_len=2048))
    model.init_weights(1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += NOISE * torch.randn(weight.shape, generator=generator)
    return model.eval(), tokenizer


@torch.inference_mode()
def with_torch(model: GPT, prompts: Sequence[list[int]], tokens: int) -> list[tuple[int, ...]]:
    found = []
    for prompt in prompts:
        cache = Cache(model.architecture, len(prompt) + tokens)
        ids, following = [], torch.tensor([prompt])
        for _ in range(tokens):
            following = model(following, cache=cache)[:, -1:].argmax(-1)
            ids.append(int(following))
        found.append(tuple(ids))
    return found


def one_by_one(engine: Engine, prompts: Sequence[list[int]], sampling: SamplingParameters) -> list[tuple[int, ...]]:
    return [engine.complete([Request(prompt=prompt, sampling=sampling)])[0][0].ids for prompt in prompts]


def measured(work: Callable[[], list[tuple[int, ...]]]) -> tuple[float, list[tuple[int, ...]]]:
    began_s = time.perf_counter()
    found = work()
    return sum(map(len, found)) / (time.perf_counter() - began_s), found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--goal", type=float, default=10.0)
    given = parser.parse_args()
    questions, tokens, turns = (8, 8, 1) if given.quick else (given.questions, given.tokens, given.turns)
    model, tokenizer = d4()
    generator = np.random.default_rng(1)
    prompts = [
        [tokenizer.bos, *generator.integers(256, VOCABULARY - 16, int(length)).tolist()]
        for length in generator.integers(40, 181, questions)
    ]
    sampling = SamplingParameters(max_tokens=tokens, ignore_end=True, calculator=False)
    own = OwnModel(model, tokenizer)
    engine = Engine(model, tokenizer, EngineSettings(slots=1, context_tokens=2048, prefix_cache_tokens=0))
    some = prompts[:: max(1, questions // 8)][:8]
    sides: dict[str, Callable[[], list[tuple[int, ...]]]] = {
        "batch": lambda: [answer.ids for (answer,) in own.generate(prompts, sampling)],
        "one, our engine": lambda: one_by_one(engine, some, sampling),
        "one, torch": lambda: with_torch(model, some, tokens),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    answers: dict[str, list[tuple[int, ...]]] = {}
    for _ in range(turns):
        for name, work in sides.items():
            speed, answers[name] = measured(work)
            speeds[name].append(speed)
    best = {name: max(found) for name, found in speeds.items()}
    batch = [answers["batch"][prompts.index(prompt)] for prompt in some]
    assert batch == answers["one, our engine"], "an answer depends on the batch"
    alike = sum(one == other for one, other in zip(batch, answers["one, torch"], strict=True))
    for name, speed in best.items():
        print(f"{name:18} {speed:9,.0f} tokens/s   {best['batch'] / speed:5.1f}x")
    print(f"{alike} of {len(some)} answers of torch are equal, token by token")
    ratio = best["batch"] / best["one, torch"]
    print(f"batch beside one question at a time, as nanochat does it: {ratio:.1f}x (goal {given.goal:g}x)")
    return int(not given.quick and ratio < given.goal)


if __name__ == "__main__":
    raise SystemExit(main())
