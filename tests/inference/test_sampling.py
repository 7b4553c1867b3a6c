"""Sampling follows the distribution that the parameters describe, and a row depends on nothing but itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nanochat.inference.request import SamplingParameters
from nanochat.inference.sampling import Row, Sampler

LOGITS = torch.tensor([1.0, 3.0, 2.0, -4.0])


def row(number: int = 0, answer: tuple[int, ...] = (), prompt: tuple[int, ...] = (), **parameters: Any) -> Row:
    parameters.setdefault("temperature", 1.0)
    return Row(SamplingParameters(**parameters), number, list(prompt), answer=list(answer))


def sampled(rows: list[Row], logits: torch.Tensor = LOGITS) -> list[int]:
    return Sampler().sample(logits.expand(len(rows), -1).clone(), rows)[0]


def shares(draws: int = 4000, logits: torch.Tensor = LOGITS, **parameters: Any) -> torch.Tensor:
    """Share of each id among the samples of many seeds, (V,)."""
    ids = sampled([row(**parameters, seed=seed) for seed in range(draws)], logits)
    return torch.tensor(ids).bincount(minlength=len(logits)) / draws


def test_temperature_zero_takes_the_most_likely_of_each_row() -> None:
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    assert Sampler().sample(logits, [row(temperature=0.0), row(temperature=0.0)])[0] == [1, 2]


def test_of_equally_likely_tokens_temperature_zero_takes_the_first() -> None:
    logits = torch.tensor([-1.0] * 40 + [2.0] * 40 + [-2.0, 2.0])  # several in each vector of numpy's argmax
    assert sampled([row(temperature=0.0), row(temperature=0.0, logit_bias={0: 1.0})], logits) == [40, 40]


def test_samples_follow_the_softmax() -> None:
    torch.testing.assert_close(shares(), LOGITS.softmax(-1), atol=0.03, rtol=0)


def test_samples_at_successive_positions_and_of_successive_answers_are_independent() -> None:
    first = torch.tensor(sampled([row(seed=7, answer=(0,) * n) for n in range(4000)])).bincount(minlength=4) / 4000
    other = torch.tensor(sampled([row(seed=7, number=n) for n in range(4000)])).bincount(minlength=4) / 4000
    torch.testing.assert_close(first, LOGITS.softmax(-1), atol=0.03, rtol=0)
    torch.testing.assert_close(other, LOGITS.softmax(-1), atol=0.03, rtol=0)


def test_a_higher_temperature_is_flatter() -> None:
    torch.testing.assert_close(shares(temperature=4.0), (LOGITS / 4).softmax(-1), atol=0.03, rtol=0)


def test_top_k_samples_among_the_k_most_likely_only() -> None:
    found = shares(top_k=2)
    assert found[0] == found[3] == 0
    torch.testing.assert_close(found[[1, 2]], LOGITS[[1, 2]].softmax(-1), atol=0.03, rtol=0)


@pytest.mark.parametrize("top_k", [0, 4, 99, (1 << 63) - 1])
def test_top_k_of_all_is_all(top_k: int) -> None:
    assert torch.equal(shares(top_k=top_k), shares())


@pytest.mark.parametrize(("top_p", "kept"), [(0.6, [1]), (0.7, [1, 2]), (0.95, [0, 1, 2]), (0.9999999, [0, 1, 2, 3])])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, kept: list[int]) -> None:
    # probabilities: 0.0899, 0.6648, 0.2446, 0.0006
    found = shares(20_000, top_p=top_p)
    assert found.nonzero()[:, 0].tolist() == kept
    torch.testing.assert_close(found[kept], LOGITS[kept].softmax(-1), atol=0.02, rtol=0)


def test_top_p_adds_up_what_top_k_leaves() -> None:
    assert shares(top_k=2, top_p=0.7).nonzero()[:, 0].tolist() == [1]  # 0.73 of the two, 0.66 of all


def test_top_p_of_a_flat_distribution_over_many_tokens_is_exact() -> None:
    logits = torch.zeros(1000)
    logits[:600] += torch.arange(600) * 1e-3
    probabilities = logits.double().softmax(-1).sort(descending=True).values
    kept = int((probabilities.cumsum(0) < 0.5).sum()) + 1
    assert kept > 256
    found = shares(3000, logits, top_p=0.5).nonzero()[:, 0]
    assert int(found.min()) >= 600 - kept
    assert len(found) > 0.9 * kept


def test_min_p_keeps_tokens_of_a_fraction_of_the_most_likely_one() -> None:
    assert shares(min_p=0.3).nonzero()[:, 0].tolist() == [1, 2]  # 0.37 and 0.14 of the most likely one
    assert shares(min_p=1.0).nonzero()[:, 0].tolist() == [1]


def test_the_same_seed_samples_the_same_whatever_the_neighbours() -> None:
    alone = [sampled([row(seed=42, answer=(0,) * n)])[0] for n in range(50)]
    neighbours = [
        row(seed=1, top_k=1), row(temperature=0.0), row(top_p=0.5), row(min_p=0.5, temperature=3.0),
        row(logit_bias={0: 9.0}), row(repetition_penalty=2.0, prompt=(1,)), row(logprobs=2), row(top_k=3, seed=42),
    ]  # fmt: skip
    for n, token in enumerate(alone):
        rows = [*neighbours[: n % 8], row(seed=42, answer=(0,) * n), *neighbours[n % 8 :]]
        assert sampled(rows)[n % 8] == token
    assert alone != [sampled([row(seed=43, answer=(0,) * n)])[0] for n in range(50)]


def test_the_lowest_temperature_takes_the_most_likely() -> None:
    assert shares(50, temperature=1e-3)[1] == shares(50, temperature=1e-9)[1] == 1


def test_a_repetition_penalty_lowers_tokens_of_prompt_and_answer() -> None:
    parameters: dict[str, Any] = {"temperature": 0.0, "logprobs": 4, "scaled_logprobs": True, "repetition_penalty": 2.0}
    _, (logprob,) = Sampler().sample(LOGITS[None].clone(), [row(prompt=(1, 1), answer=(3,), **parameters)])
    assert logprob is not None
    expected = torch.tensor([1.0, 1.5, 2.0, -8.0]).log_softmax(-1)
    assert dict(logprob.top) == pytest.approx({token: float(expected[token]) for token in range(4)}, abs=1e-5)


def test_presence_and_frequency_penalties_lower_tokens_of_the_answer() -> None:
    parameters: dict[str, Any] = {"temperature": 0.0, "logprobs": 4, "scaled_logprobs": True}
    _, (logprob,) = Sampler().sample(
        LOGITS[None].clone(),
        [row(prompt=(0,), answer=(1, 2, 1), presence_penalty=0.5, frequency_penalty=0.25, **parameters)],
    )
    assert logprob is not None
    expected = torch.tensor([1.0, 2.0, 1.25, -4.0]).log_softmax(-1)
    assert dict(logprob.top) == pytest.approx({token: float(expected[token]) for token in range(4)}, abs=1e-5)


def test_penalties_count_the_answer_as_it_grows() -> None:
    one = row(temperature=0.0, frequency_penalty=1.1)
    sampler = Sampler()
    for _ in range(6):
        one.answer += sampler.sample(LOGITS[None].clone(), [one])[0]
    assert one.answer == [1, 2, 1, 0, 2, 1]  # after each: 1.9 | 0.9 | 0.8 | -0.1 | -0.2


def test_a_bias_is_added() -> None:
    assert sampled([row(temperature=0.0, logit_bias={3: 100.0}), row(temperature=0.0, logit_bias={1: -100.0})]) == [
        3,
        2,
    ]


def test_a_grammar_excludes_tokens() -> None:
    class Last:
        def allowed(self) -> np.ndarray:
            return np.array([False, False, False, True])

        def accept(self, token: int) -> None:
            pass

    for temperature in (0.0, 1.0):
        one = row(temperature=temperature)
        limited = Row(one.sampling, 0, [], grammar=Last())
        assert sampled([limited]) == [3]


def test_logprobs_are_those_of_the_model_or_of_what_was_sampled_from() -> None:
    parameters: dict[str, Any] = {"logprobs": 2, "temperature": 0.5, "top_k": 2, "seed": 1}
    ids, (raw, scaled) = Sampler().sample(
        LOGITS.expand(2, -1).clone(), [row(**parameters), row(scaled_logprobs=True, **parameters)]
    )
    assert raw is not None
    assert scaled is not None
    assert ids[0] == ids[1] == raw.token == scaled.token
    assert raw.logprob == pytest.approx(float(LOGITS.log_softmax(-1)[ids[0]]), abs=1e-5)
    assert [token for token, _ in raw.top] == [token for token, _ in scaled.top] == [1, 2]
    of_two = (LOGITS[[1, 2]] / 0.5).log_softmax(-1)
    assert [logprob for _, logprob in scaled.top] == pytest.approx(of_two.tolist(), abs=1e-5)


def test_a_forced_token_has_the_logprob_of_the_model() -> None:
    forced = row(temperature=0.0, logprobs=1)
    forced.forced = [3, 0]
    ids, (logprob,) = Sampler().sample(LOGITS[None].clone(), [forced])
    assert ids == [3]
    assert logprob is not None
    assert logprob.logprob == pytest.approx(float(LOGITS.log_softmax(-1)[3]), abs=1e-5)
    assert logprob.top[0][0] == 1


def test_a_token_without_probability_is_never_sampled() -> None:
    logits = torch.full((500,), -torch.inf)
    logits[123] = -50.0
    assert set(sampled([row(seed=seed) for seed in range(200)], logits)) == {123}
