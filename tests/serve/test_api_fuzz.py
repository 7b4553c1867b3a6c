"""Requests generated from the server's own OpenAPI description: none breaks it, and every error is in the envelope."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serve.api_fuzz import fuzz, small_store
from tests.serve.servers import running

CASES = 300
"""`python -m tests.serve.api_fuzz 10000` tries more."""


@pytest.mark.slow
def test_generated_requests_get_answers_or_errors_in_the_envelope(tmp_path: Path) -> None:
    with running(small_store(tmp_path)) as server:
        statuses = fuzz(server, CASES, seed=1)
        assert sum(statuses.values()) >= CASES / 2
        assert {200, 400} <= statuses.keys()
        server.wait_until_idle()
        assert server.chat().status_code == 200
