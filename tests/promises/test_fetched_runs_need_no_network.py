"""What `nanochat fetch` put into the store is all that a run needs: the source may be gone, and the network too."""

from __future__ import annotations

import http.server
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.config.data import DataConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.execution.local import run_local
from nanochat.execution.plan import plan
from nanochat.graphs import resolve
from nanochat.graphs.pipeline import prepare_text
from nanochat.store.store import Store
from tests.compute import compute

SETTINGS = (
    "tokenizer.vocab_size=300", 'conversations.train=[{"task":"world","limit":20}]',
    'conversations.validation=[{"task":"world","limit":5}]', 'conversations.questions=[{"task":"world","limit":5}]',
)  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Iterator[tuple[str, http.server.HTTPServer]]:
    folder = tmp_path / "served"
    folder.mkdir()
    for number in range(3):
        documents = [f"document {number}-{i} of a small corpus" for i in range(60)]
        pq.write_table(pa.table({"text": documents}), folder / f"shard_{number}.parquet")
    (folder / "list.txt").write_text("".join(f"shard_{number}.parquet\n" for number in range(3)))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/list.txt", server
    server.server_close()


def nanochat(home: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nanochat.cli", *arguments], capture_output=True, text=True, timeout=120,
        env={**os.environ, "NANOCHAT_HOME": str(home), "COLUMNS": "200", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_fetched_run_sends_no_request(tmp_path: Path, source: tuple[str, http.server.HTTPServer]) -> None:
    address, server = source
    sets = [word for change in (f"data.source={address}", *SETTINGS) for word in ("--set", change)]
    output = nanochat(tmp_path / "home", "fetch", *sets)
    assert "5 computed, 0 cached" in output and "3 shards are in" in output
    server.shutdown()
    server.server_close()
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    output = nanochat(tmp_path / "home", "plan", *sets, **nowhere)
    assert len(re.findall(r"(download|train_tokenizer|converse).* cached", output)) == 5, output


def test_stages_behind_what_was_fetched_open_no_socket(
    tmp_path: Path, source: tuple[str, http.server.HTTPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanochat.config.data import TokenizerConfig
    from nanochat.sources.shard_list import fetch_listing

    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    address, _ = source
    config = PipelineConfig(data=DataConfig(source=address), tokenizer=TokenizerConfig(vocab_size=300))
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    shards = fetch_listing(config.data, store)
    text = prepare_text(config, shards)
    before = run_local(text, store, compute(count=2), tmp_path / "runs")

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    opened = Store(str(tmp_path / "store"), tmp_path / "cache")
    assert resolve.shards(config.data, opened) == shards
    after = run_local(text, opened, compute(count=2), tmp_path / "runs")
    assert [after[node].key for node in text.rows] == [before[node].key for node in text.rows]
    assert all(after[node].reused for node in text.raw)
    assert resolve.shards(config.data, store, keep=False) == shards
    assert all(entry.artifact for entry in plan(text, store))
