"""A store with a small chat model, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nanochat.store.store import Store
from tests.serve.models import chain_model, publish
from tests.serve.servers import Running, running


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("serve")
    made = Store(str(folder / "store"), folder / "cache")
    publish(made, folder / "model", chain_model(), key="0" * 64, alias="chat/latest")
    return made


@pytest.fixture(scope="package")
def server(store: Store) -> Iterator[Running]:
    with running(store) as found:
        yield found
