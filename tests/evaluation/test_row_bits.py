"""Bits of held-out rows: in their order on any number of ranks, and intervals that cover what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanochat.evaluation.base_model import in_order, row_bits
from nanochat.evaluation.bits_per_byte import bits_per_byte, of_equal_shape
from nanochat.evaluation.row_bits import RowBits
from tests.unit.test_bits_per_byte import BYTES, batch, built


def test_rows_have_the_bits_of_the_whole(tmp_path: Path) -> None:
    model, batches = built(), [batch(3, 1), batch(1, 2)]
    found = row_bits(model, batches, BYTES)
    assert found.per_byte()[0] == pytest.approx(bits_per_byte(model, batches, BYTES))
    assert found.per_byte()[0] == pytest.approx(found.bits.sum() / found.text_bytes.sum())
    padded = row_bits(model, of_equal_shape(batches, 3), BYTES)
    assert padded.bits == pytest.approx(found.bits), "rows that only fill a batch are none"
    alone = row_bits(model, [batch(1, 2)], BYTES)
    assert found.bits[3:] == pytest.approx(alone.bits, rel=1e-5)
    assert alone.per_byte()[1] is None, "one row has no spread"
    found.write(tmp_path)
    again = RowBits.read(tmp_path)
    assert again.bits == pytest.approx(found.bits, rel=1e-6)
    assert again.text_bytes.tolist() == found.text_bytes.tolist()


def test_the_rows_of_several_ranks_are_those_of_one() -> None:
    whole = RowBits(np.arange(5.0), np.arange(10, 15))
    for ranks in (1, 2, 3, 7):
        parts = [RowBits(whole.bits[rank::ranks], whole.text_bytes[rank::ranks]) for rank in range(ranks)]
        found = in_order(parts)
        assert (found.bits.tolist(), found.text_bytes.tolist()) == (whole.bits.tolist(), whole.text_bytes.tolist())


def test_intervals_cover_the_true_value_and_that_of_a_difference_is_narrow() -> None:
    generator = np.random.default_rng(0)
    covered = seen = 0
    for _ in range(1000):
        text_bytes = generator.integers(500, 2000, 40)
        hard = 0.2 * generator.standard_normal(40)  # a row is hard for both models
        first, second = (
            RowBits(text_bytes * (rate + hard + 0.01 * generator.standard_normal(40)), text_bytes)
            for rate in (1.2, 1.19)
        )
        _, interval = first.per_byte()
        covered += interval is not None and 1.2 in interval
        compared = first.above(second)
        assert compared is not None and compared[1] is not None
        seen += 0.01 in compared[1] and 0 not in compared[1]
    assert 925 <= covered <= 975
    assert seen > 900, "rows that are hard for both models do not hide the difference"


def test_other_rows_are_not_compared() -> None:
    first, second = (RowBits(np.array([10.0, 20.0]), np.array(sizes)) for sizes in ([10, 20], [10, 21]))
    assert first.above(second) is None
