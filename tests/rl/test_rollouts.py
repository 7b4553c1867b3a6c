"""Rollouts: a sample depends on seed, step, prompt and its number alone; the calculator's tokens are masked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat.config.rl import RLSampling
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.rl.problems import Problem
from nanochat.rl.rollouts import Prompt, Rollout
from nanochat.rl.sampling import sample_groups
from nanochat.workers.ranks import World
from tests.inference.models import TOKENIZER, built, scripted, tokens_of
from tests.rl.tiny import config, problems, source

SAMPLING = RLSampling(max_tokens=10)


def prompt(position: int, *ids: int) -> Prompt:
    question = {"task": "problems", "messages": [{"role": "user", "content": "?"}], "answer": "1"}
    return Prompt(position, Problem(0, question), (TOKENIZER.bos, *ids))


PROMPTS = [prompt(0, 5, 6), prompt(1, *range(40)), prompt(2, 7), prompt(3, 5, 6)]


def samples(engine: Engine, prompts: list[Prompt] = PROMPTS, step: int = 0, answers: int = 4) -> list[list[Rollout]]:
    return sample_groups(engine, prompts, SAMPLING, answers, 42, step)


def engine(**settings: Any) -> Engine:
    return Engine(built(), TOKENIZER, EngineSettings(context_tokens=64, **settings))


def test_a_sample_does_not_depend_on_batch_or_ranks() -> None:
    """With its log-probabilities, to the bit."""
    whole = samples(engine(slots=16))
    for settings in ({"slots": 1}, {"slots": 3, "prefill_chunk_tokens": 7, "prefix_cache_tokens": 0}):
        assert samples(engine(**settings)) == whole
    for rank in range(2):
        assert samples(engine(slots=8), PROMPTS[rank::2]) == whole[rank::2]
    fewer = samples(engine(slots=8), answers=2)
    assert fewer == [group[:2] for group in whole]


def test_first_tokens_are_independent_and_steps_positions_and_ranks_differ() -> None:
    """Case 33 (TRL#2824): 16 samples of a prompt; the same prompt at another position or step, or on another rank."""
    (group, other) = samples(engine(slots=32), [PROMPTS[0], PROMPTS[3]], answers=16)
    later = samples(engine(slots=32), [PROMPTS[0]], step=1, answers=16)[0]
    firsts = [[rollout.ids[0] for rollout in some] for some in (group, other, later)]
    assert all(len(set(some)) >= 8 for some in firsts)
    assert len({tuple(some) for some in firsts}) == 3


def test_changed_weights_drop_the_prefix_cache(tmp_path: Path) -> None:
    """Case 40 (SkyRL#2246): samples after a change of weights are those of a new engine."""
    made = source(problems(tmp_path / "problems"), config(), model := built(sequence_len=64))
    made._sampled()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1)
    made._sampling.use_weights()
    assert made._sampling.engine.statistics.cache_tokens == 0
    prompts = [prompt(n, *range(n, n + 30)) for n in range(3)]
    fresh = Engine(model, TOKENIZER, EngineSettings(slots=8, context_tokens=64))
    assert samples(made._sampling.engine, prompts) == samples(fresh, prompts)


def test_tokens_of_the_calculator_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    script = tokens_of("is ", "<|python_start|>", "3+4", "<|python_end|>")
    forced = tokens_of("<|output_start|>", "7", "<|output_end|>")
    rest = tokens_of("7", "<|assistant_end|>")
    made = scripted(monkeypatch, [*script, *forced, *rest], settings=EngineSettings(slots=2, context_tokens=64))
    one = Prompt(0, PROMPTS[0].problem, (TOKENIZER.bos,))
    ((rollout,),) = sample_groups(made, [one], RLSampling(max_tokens=32, temperature=0.01), 1, 1, 0)
    assert list(rollout.ids) == [*script, *forced, *rest]
    assert list(rollout.sampled) == [*(True for _ in script), *(False for _ in forced), *(True for _ in rest)]
    assert (rollout.text, rollout.ended, rollout.truncated) == ("is 7", True, False)


def test_ranks_together_have_the_step_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank samples its prompts; gathered, the groups are those of a run alone, in the same order."""
    from nanochat.training import rollout_source

    folder, of, model = problems(tmp_path / "problems"), config(prompts_per_step=5), built(sequence_len=64)
    alone = source(folder, of, model)._sampled()
    parts: list[list[list[Rollout]]] = []
    for rank in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(rollout_source, "from_all_ranks", lambda mine: parts.append(mine) or [mine])
            source(folder, of, model, world=World(rank, 2, torch.device("cpu")))._sampled()
    found = sorted((group for part in parts for group in part), key=lambda group: group[0].prompt.position)
    assert found == alone


def test_refill_samples_further_prompts_in_place_of_dead_groups(tmp_path: Path) -> None:
    """DAPO's dynamic sampling, bounded."""
    odd = "def reward(problem, answer):\n    return len(answer) if int(problem['answer']) % 2 else 1"
    folder = problems(tmp_path / "problems", odd)
    model = built(sequence_len=64)
    plain = source(folder, config(prompts_per_step=4), model)
    assert len(plain._sampled()) == 4 == plain.rows_consumed
    filled = source(folder, config(prompts_per_step=4, loss={"refill_rounds": 20, "truncated": "judge"}), model)
    groups = filled._sampled()
    assert sum(filled._is_live(group) for group in groups) == 4
    assert len(groups) == filled.rows_consumed > 4
