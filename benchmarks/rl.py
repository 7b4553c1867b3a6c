"""Rollouts of reinforcement learning: all prompts of a step in one batch, beside one prompt or one answer at a time.

    python benchmarks/rl.py             about three minutes on two cores
    python benchmarks/rl.py --quick     a few tokens, to see that it runs

The model has the shapes of a d4 with 32,768 ids, in fp32, and random weights: 8 prompts of 64 tokens, 16 answers each.
Sides:

    batch             `sample_groups`, as training uses it: 64 slots, groups share their prefill
    one prompt        the same engine with one prompt at a time, its 16 answers in a batch
    one answer        the same engine with one answer at a time, each with its own prefill

The first three prompts are enough for the slow sides; times are per answer. All sides must sample the same tokens.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from benchmarks.evaluation_generation import d4
from nanochat.config.rl import RLSampling
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import Request, SamplingParameters
from nanochat.rl.problems import Problem
from nanochat.rl.rollouts import Prompt
from nanochat.rl.sampling import sample_groups, seed_of

ANSWERS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    tokens = 4 if parser.parse_args().quick else 64
    model, tokenizer = d4()
    generator = np.random.default_rng(1)
    question = {"task": "sums", "messages": [{"role": "user", "content": "?"}], "answer": "1"}
    ids = [tuple(generator.integers(0, 256, 64).tolist()) for _ in range(8)]
    prompts = [Prompt(n, Problem(0, question), each) for n, each in enumerate(ids)]
    sampling = RLSampling(max_tokens=tokens)

    def engine(slots: int, cache: int = 8192) -> Engine:
        return Engine(model, tokenizer, EngineSettings(slots=slots, context_tokens=256, prefix_cache_tokens=cache))

    def timed(work):
        began = time.perf_counter()
        found = work()
        return found, time.perf_counter() - began

    one, batch, single = engine(ANSWERS), engine(64), engine(1, 0)
    groups, seconds = timed(lambda: sample_groups(batch, prompts, sampling, ANSWERS, 42, 0))
    times = {"batch": seconds / (len(prompts) * ANSWERS)}
    alone, seconds = timed(lambda: [sample_groups(one, [each], sampling, ANSWERS, 42, 0)[0] for each in prompts[:3]])
    times["one prompt"] = seconds / (3 * ANSWERS)
    assert alone == groups[:3], "the sides sampled different tokens"
    how = SamplingParameters(max_tokens=tokens, temperature=1.0, logprobs=0, scaled_logprobs=True)
    requests = [
        Request(prompt=prompts[0].ids, sampling=replace(how, seed=seed_of(42, 0, n))) for n in range(4)
    ]  # another answer for each seed
    _, seconds = timed(lambda: [single.complete([each]) for each in requests])
    times["one answer"] = seconds / len(requests)
    for name, each in times.items():
        print(f"{name:12} {1000 * each:8.1f} ms an answer, {each / times['batch']:5.1f} times the batch")


if __name__ == "__main__":
    main()
