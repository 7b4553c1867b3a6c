"""How many rows go through at once: as many as fit, evenly."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from nanochat.errors import BadConfig
from nanochat.model.gpt import GPT
from nanochat.training.micro_batch import even_share, largest_that_runs, micro_batch_rows, most_that_fits
from nanochat.workers.ranks import World
from tests.compute import compute


def test_the_most_that_fits_follows_from_one_and_two_rows() -> None:
    tried: list[int] = []

    def bytes_of(rows: int) -> int:
        tried.append(rows)
        return 100 + 10 * rows

    assert most_that_fits(bytes_of, 750) == 65
    assert bytes_of(65) == 750
    assert most_that_fits(bytes_of, 50) == 1
    assert set(tried) == {1, 2, 65}


@pytest.mark.parametrize(
    ("rows", "most", "share"), [(32, 32, 32), (32, 31, 16), (6, 4, 3), (7, 4, 1), (8, 100, 8), (5, 0, 1)]
)
def test_shares_are_even(rows: int, most: int, share: int) -> None:
    assert even_share(rows, most) == share


@pytest.mark.parametrize(
    ("rows", "limit", "found", "tried"),
    [(32, 32, 32, [32]), (32, 20, 16, [32, 16]), (12, 5, 3, [12, 6, 3]), (7, 3, 1, [7, 1]), (4, 0, 0, [4, 2, 1])],
)
def test_a_pass_that_does_not_fit_is_tried_with_a_share_of_its_rows(
    rows: int, limit: int, found: int, tried: list[int]
) -> None:
    passes: list[int] = []

    def runs(some: int) -> bool:
        passes.append(some)
        return some <= limit

    assert largest_that_runs(rows, runs) == found
    assert passes == tried


@pytest.mark.parametrize(("world_size", "batch_rows"), [(3, 12), (6, 12), (8, 12)])
def test_ranks_that_cannot_add_up_exactly_are_refused(world_size: int, batch_rows: int) -> None:
    world, model = World(0, world_size, torch.device("cpu")), cast(GPT, None)
    with pytest.raises(BadConfig, match=f"{world_size} ranks cannot share 12 rows"):
        micro_batch_rows(compute(exact=True), model, 512, batch_rows, world)
    assert micro_batch_rows(compute(exact=True), model, 512, batch_rows, World(0, 4, torch.device("cpu"))) == 1


def test_exact_sums_on_a_gpu_are_refused() -> None:
    with pytest.raises(BadConfig, match="Sums are exact on CPUs only"):
        micro_batch_rows(compute(exact=True), cast(GPT, None), 512, 8, World(0, 1, torch.device("cuda", 0)))
