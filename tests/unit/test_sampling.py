"""Sampling: the likeliest, or a draw among the likely ones."""

from __future__ import annotations

import pytest
import torch

from nanochat.inference.sampling import sample

LOGITS = torch.tensor([[1.0, 3.0, 2.0, -4.0]])


def drawn(temperature: float, top_k: int, draws: int = 4000, seed: int = 1) -> torch.Tensor:
    """Share of each id among many draws, (V,)."""
    generator = torch.Generator().manual_seed(seed)
    return sample(LOGITS.expand(draws, -1), temperature, top_k, generator).bincount(minlength=4) / draws


def test_temperature_zero_takes_the_likeliest_of_each_row() -> None:
    rows = torch.stack([LOGITS[0], LOGITS[0].flip(0)])
    assert sample(rows, 0.0, 0, torch.Generator()).tolist() == [1, 2]


def test_draws_follow_the_softmax() -> None:
    torch.testing.assert_close(drawn(1.0, 0), LOGITS.softmax(-1)[0], atol=0.03, rtol=0)


def test_a_higher_temperature_is_flatter() -> None:
    torch.testing.assert_close(drawn(4.0, 0), (LOGITS / 4).softmax(-1)[0], atol=0.03, rtol=0)


def test_top_k_draws_among_the_k_likeliest_only() -> None:
    shares = drawn(1.0, 2)
    assert shares[0] == shares[3] == 0
    torch.testing.assert_close(shares[[1, 2]], LOGITS[0, [1, 2]].softmax(-1), atol=0.03, rtol=0)


@pytest.mark.parametrize("top_k", [0, 4, 99])
def test_top_k_of_all_is_all(top_k: int) -> None:
    assert torch.equal(drawn(2.0, top_k), drawn(2.0, 0))


def test_the_same_seed_draws_the_same() -> None:
    assert torch.equal(drawn(1.0, 0, seed=7), drawn(1.0, 0, seed=7))
    assert not torch.equal(drawn(1.0, 0, seed=7), drawn(1.0, 0, seed=8))


def test_the_coldest_that_the_chat_allows_is_the_likeliest() -> None:
    assert drawn(1e-3, 3, draws=50)[1] == 1
