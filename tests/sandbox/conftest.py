"""One sandbox for all tests of a mode; without it, the test is skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nanochat.errors import SandboxFailed
from nanochat.tools.sandbox.sandbox import Sandbox


@pytest.fixture(scope="session")
def full() -> Iterator[Sandbox]:
    """The strongest mode."""
    with Sandbox("full", workers=2) as sandbox:
        try:
            assert sandbox.mode == "full"
        except SandboxFailed as error:
            pytest.skip(f"no namespaces here: {error}")
        yield sandbox
