"""How many rows go through at once: as many as fit, evenly."""

from __future__ import annotations

import pytest

from nanochat.training.micro_batch import even_share, most_that_fits


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
