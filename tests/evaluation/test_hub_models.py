"""Models of the Hub: the real client, in a process of its own, on a server with its API."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("transformers")

from tests.evaluation import tiny_models
from tests.unit.test_hub import COMMIT, Hub

PROGRAM = """
import json, sys, types
from nanochat.config.foreign import ForeignModelConfig, ForeignOptions
from nanochat.errors import NanochatError
from nanochat.sources import retry
from nanochat.sources.model_files import find_model, locate

retry.time = types.SimpleNamespace(sleep=lambda seconds: None)
for given in json.loads(sys.argv[1]):
    try:
        if isinstance(given, str):
            print(json.dumps(find_model(given, ForeignOptions()).model_dump()))
        else:
            folder = locate(ForeignModelConfig.model_validate(given))
            print(json.dumps(sorted(path.name for path in folder.iterdir())))
    except NanochatError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


class Models(Hub):
    """One model, `org/name`, that is a folder."""

    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:  # noqa: N802
        self.requests.append(self.path)
        self.path = self.path.replace("/api/models/", "/api/datasets/", 1)
        super().do_GET()

    do_HEAD = do_POST = do_GET  # noqa: N815


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Models, "root", tmp_path / "repository", raising=False)
    Models.requests.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ask_hub(endpoint: str, folder: Path, *given: Any) -> list[Any]:
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "NANOCHAT_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(given)], capture_output=True, text=True, timeout=300,
        env={**os.environ, **ours, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_model_is_pinned_to_a_commit_and_found_again_without_the_network(endpoint: str, tmp_path: Path) -> None:
    tiny_models.write_model(tmp_path / "repository")
    (tmp_path / "repository" / "pytorch_model.bin").write_bytes(b"pickled")
    (tmp_path / "repository" / "README.md").write_text("a card")
    found, located = ask_hub(endpoint, tmp_path, "hf://org/name@v1", "hf://org/name")
    assert found["source"] == located["source"] == f"hf://org/name@{COMMIT}"
    assert (found["revision"], located["revision"]) == ("v1", "")
    names = {name for name, _ in found["files"]}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    fetched = [path for path in Models.requests if "/resolve/" in path]
    assert not any(path.endswith((".bin", ".md")) for path in fetched), "only what is read is downloaded"
    (there,) = ask_hub("http://127.0.0.1:9", tmp_path, found)
    assert set(there) == names


def test_pickled_weights_are_refused_before_they_are_downloaded(endpoint: str, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "config.json").write_text("{}")
    (tmp_path / "repository" / "pytorch_model.bin").write_bytes(b"pickled")
    ((kind, message),) = ask_hub(endpoint, tmp_path, "hf://org/name")
    assert kind == "BadSource"
    assert "only in `pytorch_model.bin`, a format that can run code" in message
    assert not any("/resolve/" in path for path in Models.requests)


def test_what_the_hub_does_not_have_or_does_not_answer_is_one_sentence(endpoint: str, tmp_path: Path) -> None:
    tiny_models.write_model(tmp_path / "repository")
    absent, no_gguf, bad = ask_hub(endpoint, tmp_path, "hf://org/absent", "hf://org/name/a.gguf", "hf://org")
    assert (absent[0], "`hf://org/absent`" in absent[1]) == ("BadSource", True)
    assert no_gguf == ["BadSource", "`hf://org/name/a.gguf` has no GGUF file `a.gguf`. It has none."]
    assert (bad[0], "`hf://org`" in bad[1]) == ("BadSource", True)
    ((kind, message),) = ask_hub("http://127.0.0.1:9", tmp_path, "hf://org/name")
    assert (kind, "does not answer" in message) == ("SourceUnreachable", True)
