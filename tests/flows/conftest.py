"""One site with both pools, for all tests that only use it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

import pytest

from tests.flows.site import Site, up


@pytest.fixture(scope="package")
def both_pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if importlib.util.find_spec("prefect") is None or sys.platform != "linux":
        pytest.skip("needs Prefect, on Linux")
    with up(tmp_path_factory.mktemp("both"), gpu=True) as site:
        yield site
