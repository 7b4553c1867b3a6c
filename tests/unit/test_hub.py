"""Datasets of the Hub: the real client libraries, in a process of their own, on a server with its API."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

COMMIT = "c0ffee" * 6 + "c0de"
CARD = """---
configs:
- config_name: english
  data_files:
  - {split: train, path: en/train-*.parquet}
  - {split: validation, path: en/validation-*.parquet}
- config_name: german
  data_files:
  - {split: train, path: de/t*.parquet}
---
"""
PROGRAM = """
import json, sys, tempfile, types
from pathlib import Path
from nanochat.config.data import DataConfig
from nanochat.sources import retry
from nanochat.sources.shard_list import list_shards
from nanochat.sources.download import write_shard
from nanochat.errors import NanochatError

retry.time = types.SimpleNamespace(sleep=lambda seconds: None)
for fields in json.loads(sys.argv[1]):
    try:
        shards = list_shards(DataConfig(**{"source": "hf://org/name", "text_column": "body", **fields}))
        out = Path(tempfile.mkdtemp()) / "out"
        out.mkdir()
        metrics = write_shard(shards[0], out)
        found = [[s.name, s.validation, s.url, s.identity] for s in shards]
        print(json.dumps([found, metrics["train_documents"] + metrics["validation_documents"]]))
    except NanochatError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's API as its client uses, of one dataset that is a folder."""

    protocol_version = "HTTP/1.1"
    root: Path
    flips = False
    cuts = 0
    """So many downloads break off in the middle."""

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path.startswith("/api/datasets/org/name/paths-info/"):
            wanted = [self.root / each for each in parse_qs(body.decode())["paths"]]
            self.answer(json.dumps([self.entry(each) for each in wanted if each.exists()]).encode())
        elif path.startswith("/api/datasets/org/name/tree/"):
            folder = self.root / path.partition("/tree/")[2].partition("/")[2]
            if not folder.is_dir():
                self.answer(b"{}", 404, **{"X-Error-Code": "EntryNotFound"})
                return
            recursive = parse_qs(address.query).get("recursive") == ["true"]
            there = sorted(folder.rglob("*") if recursive else folder.iterdir())
            self.answer(json.dumps([self.entry(each) for each in there]).encode())
        elif path.startswith("/api/datasets/org/name"):
            files = [each.relative_to(self.root).as_posix() for each in self.root.rglob("*") if each.is_file()]
            listed = {"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            self.answer(json.dumps(listed).encode())
        elif (file := self.root / path.partition(f"/resolve/{COMMIT}/")[2]).is_file():
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= self.flips
            self.answer(bytes(data), ETag=f'"{hashlib.sha256(data).hexdigest()}"')
        else:
            self.answer(b"", 404, **{"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_POST = do_GET  # noqa: N815

    def entry(self, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.root).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        data = path.read_bytes()
        large = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return {"type": "file", "path": name, "size": len(data), "oid": "b" * 40, "lfs": large}

    def answer(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            cut = Hub.cuts > 0 and "/resolve/" in self.path
            Hub.cuts -= cut
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = self.close_connection or cut


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    Hub.root = tmp_path_factory.mktemp("repository")
    for language in ("en", "de"):
        (Hub.root / language).mkdir()
        for split in ("train", "validation", "test"):
            texts = [f"{language} {split} {number}" for number in range(50)]
            pq.write_table(pa.table({"body": texts}), Hub.root / f"{language}/{split}-0.parquet")
    (Hub.root / "README.md").write_text(CARD)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def ask_hub(endpoint: str, folder: Path, *fields: dict[str, str]) -> list[Any]:
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "NANOCHAT_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(fields)], capture_output=True, text=True, timeout=120,
        env={**os.environ, **ours, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_files_by_their_names_or_by_subset_and_split(endpoint: str, tmp_path: Path) -> None:
    everything, english, german, no_split, no_subset, undecided = ask_hub(
        endpoint, tmp_path,
        {}, {"subset": "english"}, {"subset": "german", "split": "train"}, {"subset": "english", "split": "test"},
        {"subset": "french"}, {"split": "train"},
    )  # fmt: skip
    assert [(name, validation) for name, validation, *_ in everything[0]] == [
        ("de/train-0", "none"), ("de/validation-0", "all"), ("en/train-0", "none"), ("en/validation-0", "all"),
    ]  # fmt: skip
    assert everything[0][0][2] == f"hf://org/name@{COMMIT}/de/train-0.parquet", "the revision is pinned"
    sha256 = hashlib.sha256((Hub.root / "de/train-0.parquet").read_bytes()).hexdigest()
    assert everything[0][0][3] == f"sha256:{sha256}"
    assert everything[1] == 50
    assert [name for name, *_ in english[0]] == ["train/en/train-0", "validation/en/validation-0"]
    assert [(name, validation) for name, validation, *_ in german[0]] == [("test-0", "sample"), ("train-0", "none")]
    assert no_split == ["BadSource", "`hf://org/name` has no split `test`; it has `train`, `validation`."]
    assert "'french' not found. Available: ['english', 'german']" in no_subset[1]
    assert undecided[0] == "BadSource" and "data.subset" in undecided[1]


def test_a_file_may_be_named_itself_and_a_revision_of_the_converter(endpoint: str, tmp_path: Path) -> None:
    """Whatever split its name has: it was requested. A folder may be called like a file."""
    one, converted, absent = ask_hub(
        endpoint, tmp_path,
        {"source": "hf://org/name/en/test-0.parquet"}, {"source": "hf://org/name@refs/convert/parquet/en"},
        {"source": "hf://datasets/org/name/en/nothing.parquet"},
    )  # fmt: skip
    assert [(name, validation) for name, validation, *_ in one[0]] == [("test-0", "sample")]
    assert one[0][0][2:] == [f"hf://org/name@{COMMIT}/en/test-0.parquet", one[0][0][3]] and one[1] == 50
    assert [name for name, *_ in converted[0]] == ["train-0", "validation-0"]
    assert absent[0] == "BadSource" and "hf://datasets/org/name/en/nothing.parquet" in absent[1]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("train.csv", b"body,n\na,1\na,b,c,d\n", "Expected 2 fields in line 3, saw 4"),
        ("name.py", b"import datasets", "Dataset scripts are no longer supported"),
        ("README.md", b"---\nconfigs: [\n---\n", "ParserError"),
        ("a.png", b"\x89PNG\r\n", "cannot identify image file"),
    ],
    ids=["fields", "script", "card", "image"],
)  # fmt: skip
def test_what_the_datasets_library_cannot_read_is_named(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, expected: str
) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / name).write_bytes(data)
    monkeypatch.setattr(Hub, "root", tmp_path / "repository")
    ((kind, message),) = ask_hub(endpoint, tmp_path, {})
    assert kind == "BadSource" and "org/name" in message and expected in message
    assert "convert it to Parquet or JSON lines" in message, "a hint that helps"


def test_a_byte_that_flips_on_the_way_is_noticed(endpoint: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Hub, "flips", True)
    ((kind, output),) = ask_hub(endpoint, tmp_path, {"subset": "german"})
    assert kind == "DamagedTransfer"
    assert "de/test-0.parquet is damaged: its SHA256 is" in output


def test_a_download_that_breaks_off_is_tried_again(endpoint: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Hub, "cuts", 3)
    ((shards, documents),) = ask_hub(endpoint, tmp_path, {"subset": "german"})
    assert (len(shards), documents, Hub.cuts) == (2, 50, 0)


def test_splits_for_tests_are_not_trained_on(tmp_path: Path, endpoint: str, monkeypatch) -> None:
    names = ["data/eval-0", "testing/a", "data/shard 1#2", "data/dev-0", "_temporary/x", "contest"]
    for name in names:
        (tmp_path / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"body": [name] * 30}), tmp_path / f"repository/{name}.parquet")
    (tmp_path / "repository/train.jsonl").write_text("{}")
    monkeypatch.setattr(Hub, "root", tmp_path / "repository")
    ((shards, documents),) = ask_hub(endpoint, tmp_path, {})
    assert [(name, validation) for name, validation, *_ in shards] == [
        ("contest", "none"), ("data/dev-0", "all"), ("data/shard 1#2", "none"),
    ]  # fmt: skip
    assert documents == 30
