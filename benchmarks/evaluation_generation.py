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

from nanochat.config.training import ModelConfig
from nanochat.evaluation.own_model import OwnModel
from nanochat.inference.decoder import Rows
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import Request, SamplingParameters
from nanochat.inference.torch_decoder import TorchDecoder
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.tokenizer.bpe import Tokenizer

VOCABULARY = 32_768
NOISE = 0.02
"""Added to all weights: some of the initial ones are zero."""


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


def with_torch(decoder: TorchDecoder, prompts: Sequence[list[int]], tokens: int) -> list[tuple[int, ...]]:
    found = []
    for prompt in prompts:
        row = list(prompt)
        at, most = 0, decoder.longest_run_tokens
        while len(row) < len(prompt) + tokens:
            rows = Rows()
            rows.add(0, at, row[at : at + most], row[at - 1] if at else None)
            hidden_NC = decoder.forward(rows)
            at += len(rows)
            if at == len(row):
                row.append(int(decoder.logits(hidden_NC[-1:]).argmax()))
        found.append(tuple(row[len(prompt) :]))
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
    decoder = TorchDecoder(model, 1, 2048)
    some = prompts[:: max(1, questions // 8)][:8]
    sides: dict[str, Callable[[], list[tuple[int, ...]]]] = {
        "batch": lambda: [answer.ids for (answer,) in own.generate(prompts, sampling)],
        "one, our engine": lambda: one_by_one(engine, some, sampling),
        "one, torch": lambda: with_torch(decoder, some, tokens),
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
