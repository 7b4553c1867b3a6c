"""What an artifact was made from: folded, down to the hashes, and read without changing anything."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nanochat.store.artifacts import Artifact, Manifest, Store
from nanochat.store.lineage import ancestors, as_json, tree
from nanochat.store.manifest import Name
from nanochat.store.picture import as_mermaid, fold
from nanochat.store.producer import describe_producer

SHARDS = 5


@pytest.fixture
def store(root: str, tmp_path: Path) -> Store:
    return Store(root, tmp_path / "cache")


@pytest.fixture
def made(store: Store, tmp_path: Path) -> tuple[list[Artifact], Manifest]:
    """Raw shards, and a model of their tokens; the tokenizer saw only the first two."""

    def make(stage: str, kind: str, name: str, **inputs: Artifact | list[Artifact]) -> Artifact:
        out = tmp_path / uuid.uuid4().hex
        out.mkdir()
        (out / "data").write_text(name)
        manifest = store.publish(
            out, stage=stage, stage_version=1, kind=kind, key=f"{stage}-{name}", config={"name": name}, inputs=inputs,
            metrics={"documents": 1234, "whole": True}, producer=describe_producer(datetime.now(UTC)),
        )  # fmt: skip
        return store.artifact(manifest, reused=False)

    raw = [make("download", "RawShard", f"shard_{i}") for i in range(SHARDS)]
    vocabulary = make("train_tokenizer", "Vocabulary", "v", raw=raw[:2])
    tokens = [make("tokenize", "TokenShard", f"t{i}", raw=each, vocabulary=vocabulary) for i, each in enumerate(raw)]
    return raw, make("pretrain", "Model", "model", vocabulary=vocabulary, rows=tokens).manifest


def test_the_tree_shows_every_source_once(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    raw, top = made
    lines = tree(store, top)
    text = "\n".join(lines)
    assert lines[0].startswith("pretrain ")
    assert "documents 1,234" in lines[0]
    for shard in raw:
        assert text.count(shard.manifest.files[0].sha256) == 1
    assert f"tokenize ×{SHARDS}" in text
    assert f"download ×{SHARDS} (2 ↑)" in text
    assert "train_tokenizer train_to ↑" in text
    assert len(ancestors(store, top)) == 2 * SHARDS + 1


def test_what_is_gone_is_said_and_nothing_is_removed(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    raw, top = made
    store.remove(raw[0].manifest)
    hollow = raw[1].manifest
    store.objects.delete([f"{hollow.folder}/{hollow.payload}/data"])
    text = "\n".join(tree(store, top))
    assert "download ×2 (1 gone)" in text
    assert hollow.files[0].sha256 in text
    assert "(1 gone)" in as_mermaid(fold([top, *ancestors(store, top)]))
    assert store.read("download", hollow.key) == hollow


def test_the_picture_folds_shards(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    lines = as_mermaid(fold([made[1], *ancestors(store, made[1])])).splitlines()
    assert lines[0] == "graph TD"
    assert f'  download["download<br/>×{SHARDS}"]' in lines
    edges = {line.strip() for line in lines if "-->" in line}
    assert edges == {"download --> train_tokenizer", "train_tokenizer --> tokenize", "tokenize --> pretrain"}


def test_what_is_known_is_not_read_again(
    store: Store, made: tuple[list[Artifact], Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[Name, Manifest] = {}
    first = ancestors(store, made[1], known)
    monkeypatch.setattr(store, "read", None)
    assert ancestors(store, made[1], known) == first


def test_the_json_has_every_node_and_edge(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    found = json.loads(as_json(store, made[1]))
    assert len(found["artifacts"]) == 2 * SHARDS + 2
    assert len(found["edges"]) == 2 + 2 * SHARDS + 1 + SHARDS
