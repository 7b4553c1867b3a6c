"""Whatever else an engine computes, not one token of an answer differs."""

from __future__ import annotations

import pytest

from tests.inference.schedules import check_schedules


def test_answers_do_not_depend_on_arrivals_cancellations_stops_shared_prefixes_or_evictions() -> None:
    assert check_schedules(25, seed=1) > 1000


@pytest.mark.slow
def test_hundreds_of_schedules() -> None:
    """`python -m tests.inference.schedules 10000` runs more."""
    assert check_schedules(300, seed=0) > 9000
