"""Roots of stores to test on: a folder, and a bucket of a real S3 server; and a store with a small lineage in it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import Manifest
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root of either kind."""
    return request.getfixturevalue("root_s3") if request.param == "s3" else str(tmp_path / "store")


@pytest.fixture
def store(root: str, tmp_path: Path) -> Store:
    return Store(root, tmp_path / "cache")


@pytest.fixture
def made(store: Store, tmp_path: Path) -> tuple[list[Artifact], Manifest]:
    """Five raw shards, and a model of their tokens; the tokenizer saw only the first two."""

    def make(stage: str, kind: str, name: str, **inputs: Artifact | list[Artifact]) -> Artifact:
        out = tmp_path / uuid.uuid4().hex
        out.mkdir()
        (out / "data").write_text(name)
        manifest = store.publish(
            out, stage=stage, stage_version=1, kind=kind, key=f"{stage}-{name}", config={"name": name}, inputs=inputs,
            metrics={"documents": 1234, "whole": True}, producer=describe_producer(datetime.now(UTC)),
        )  # fmt: skip
        return store.artifact(manifest, reused=False)

    raw = [make("download", "RawShard", f"shard_{i}") for i in range(5)]
    vocabulary = make("train_tokenizer", "Vocabulary", "v", raw=raw[:2])
    tokens = [make("tokenize", "TokenShard", f"t{i}", raw=each, vocabulary=vocabulary) for i, each in enumerate(raw)]
    return raw, make("pretrain", "Model", "model", vocabulary=vocabulary, rows=tokens).manifest
