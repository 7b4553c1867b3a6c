"""What an artifact was made from: folded, down to the hashes, and read without changing anything."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from nanochat.lineage.ancestry import ancestors, as_json, family, oldest_first
from nanochat.lineage.picture import as_mermaid, fold
from nanochat.lineage.tree import tree
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import Manifest, Name
from nanochat.store.store import Store
from nanochat.store.verification import discard


def test_the_tree_shows_every_source_once(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    raw, top = made
    lines = tree(store, top)
    text = "\n".join(lines)
    assert lines[0].startswith("pretrain ")
    assert "documents 1,234" in lines[0]
    for shard in raw:
        assert text.count(shard.manifest.files[0].sha256) == 1
    assert f"tokenize ×{len(made[0])}" in text
    assert f"download ×{len(made[0])} (2 ↑)" in text
    assert "train_tokenizer train_to ↑" in text
    assert len(ancestors(store, top)) == 2 * len(made[0]) + 1


def test_a_missing_payload_is_reported_only(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    raw, top = made
    discard(store, [raw[0].manifest], "a test")
    hollow = raw[1].manifest
    store.objects.delete([f"{hollow.folder}/{hollow.payload}/data"])
    text = "\n".join(tree(store, top))
    assert "download ×2 (1 gone)" in text
    assert hollow.files[0].sha256 in text
    assert "(1 gone)" in as_mermaid(fold(family(store, top)))
    assert store.read("download", hollow.key) == hollow


def test_the_picture_folds_shards(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    lines = as_mermaid(fold(family(store, made[1]))).splitlines()
    assert lines[0] == "graph TD"
    assert f'  download["download<br/>×{len(made[0])}"]' in lines
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
    assert len(found["artifacts"]) == 2 * len(made[0]) + 2
    assert len(found["edges"]) == 2 + 2 * len(made[0]) + 1 + len(made[0])


def test_a_clock_that_is_wrong_changes_no_order(store: Store, made: tuple[list[Artifact], Manifest]) -> None:
    found = family(store, made[1])
    assert oldest_first(found) == sorted(found, key=lambda each: each.producer.ended)
    early = made[1].producer.ended - timedelta(days=1)
    late = [m.model_copy(update={"producer": m.producer.model_copy(update={"ended": early})}) for m in found[:1]]
    assert [each.key for each in oldest_first([*late, *found[1:]])][-1] == made[1].key
