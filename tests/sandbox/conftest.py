"""One sandbox for all tests of a mode; without it, the test is skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nanochat.errors import SandboxFailed
from nanochat.tools.sandbox.limits import Mode
from nanochat.tools.sandbox.sandbox import Sandbox


def of_mode(mode: Mode) -> Iterator[Sandbox]:
    """A sandbox of exactly this mode, where stronger ones may work too."""
    with pytest.MonkeyPatch.context() as patch, Sandbox((mode,), workers=2) as sandbox:
        patch.setenv("SECRET_OF_THE_CALLER", "SECRET_OF_THE_CALLER")
        try:
            assert sandbox.mode == mode
        except SandboxFailed as error:
            pytest.skip(f"not on this system: {error}")
        yield sandbox


@pytest.fixture(scope="session")
def full() -> Iterator[Sandbox]:
    """The strongest mode."""
    yield from of_mode("full")


@pytest.fixture(scope="session")
def no_namespaces() -> Iterator[Sandbox]:
    """Seccomp and Landlock only, as in a container that may not make namespaces."""
    yield from of_mode("no namespaces")


@pytest.fixture(scope="session")
def rlimits_only() -> Iterator[Sandbox]:
    """The weakest mode."""
    yield from of_mode("rlimits only")
