"""Roots of stores to test on: a folder, and a bucket of a real S3 server."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from nanochat.store.objects import Objects


@pytest.fixture
def root_s3(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix in a bucket that is there; the environment leads to it."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    root = f"s3://bucket/{uuid.uuid4().hex}"
    Objects(root).make_bucket()
    return root


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root of either kind."""
    return request.getfixturevalue("root_s3") if request.param == "s3" else str(tmp_path / "store")
