"""Whatever else an engine computes, not one token of an answer differs."""

from __future__ import annotations

import pytest

from tests.inference.schedules import check_schedules


def test_answers_do_not_depend_on_arrivals_cancellations_stops_shared_prefixes_or_evictions() -> None:
    assert check_schedules(40, seed=1) > 1000


@pytest.mark.slow
def test_ten_thousand_schedules() -> None:
    assert check_schedules(10_000, seed=0) > 300_000
