"""What differs between artifacts, where the difference began, and why a stage runs."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nanochat.lineage.ancestry import descendants
from nanochat.lineage.differences import StageCall, closest_artifact, key_differences, other_differences, why_not_reused
from nanochat.lineage.tree import tree_down
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import Manifest, compute_key
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store
from nanochat.store.verification import discard


class Bench:
    """Makes artifacts of stages that only record their inputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store((folder / "store").as_uri(), folder / "cache")

    def make(self, stage: str, config: dict[str, Any], *, version: int = 1, text: str = "", **inputs: Any) -> Manifest:
        given = {name: each if isinstance(each, list) else [each] for name, each in inputs.items()}
        artifacts: dict[str, list[Artifact]] = {
            name: [self.store.artifact(manifest, reused=True) for manifest in each] for name, each in given.items()
        }
        digests = {name: [manifest.digest for manifest in each] for name, each in given.items()}
        out = self.folder / uuid.uuid4().hex
        out.mkdir()
        (out / "file").write_text(text or repr((config, digests)))
        return self.store.publish(
            out, stage=stage, stage_version=version, kind="RawShard",
            key=compute_key(stage, version, config, digests), config=config, inputs=artifacts,
            metrics={"loss": len(repr(config))}, producer=describe_producer(datetime.now(UTC)),
        )  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def texts(found: list[Any]) -> list[str]:
    return [str(each) for each in found]


def test_a_difference_is_followed_up_to_where_it_began(bench: Bench) -> None:
    def chain(seed: int) -> Manifest:
        raw = [bench.make("download", {"name": f"shard_{n}", "seed": seed if n else 0}) for n in range(3)]
        tokens = [bench.make("tokenize", {"group": 8}, raw=each) for each in raw]
        return bench.make("pretrain", {"model": {"depth": 4}}, rows=tokens)

    one, two = chain(1), chain(2)
    assert texts(key_differences(bench.store, one, two)) == ["pretrain ← rows: tokenize ← raw: download: seed 1 → 2"]
    assert key_differences(bench.store, one, one) == []


def test_fields_versions_and_numbers_of_inputs_are_reported(bench: Bench) -> None:
    raw = [bench.make("download", {"name": name}) for name in "abc"]
    one = bench.make("pretrain", {"model": {"depth": 4}, "seed": 1}, rows=raw[:2])
    two = bench.make("pretrain", {"model": {"depth": 6}, "seed": 1}, version=2, rows=raw)
    assert texts(key_differences(bench.store, one, two)) == [
        "pretrain: version of the stage 1 → 2",
        "pretrain: model.depth 4 → 6",
        "pretrain: 2 artifacts as `rows`, now 3",
    ]


def test_other_bytes_for_the_same_key_are_reported(bench: Bench) -> None:
    old = bench.make("download", {"name": "a"}, text="one")
    first = bench.make("tokenize", {}, raw=old)
    discard(bench.store, [old], "a test")
    second = bench.make("tokenize", {}, raw=bench.make("download", {"name": "a"}, text="two"))
    assert texts(key_differences(bench.store, first, second)) == ["tokenize ← raw: download: same key, different bytes"]


def test_what_has_left_the_store_is_reported(bench: Bench) -> None:
    raw = bench.make("download", {"name": "a"})
    one, two = (bench.make("tokenize", {}, raw=each) for each in (raw, bench.make("download", {"name": "b"})))
    discard(bench.store, [raw], "a test")
    assert texts(key_differences(bench.store, one, two)) == [
        f"tokenize ← raw: download: download {raw.key[:8]} has left the store"
    ]


def test_metrics_and_producers_are_compared(bench: Bench) -> None:
    one, two = bench.make("pretrain", {"a": 1}), bench.make("pretrain", {"a": 10_000})
    other = two.model_copy(update={"producer": two.producer.model_copy(update={"packages": {"torch": "9.9"}})})
    lines = texts(other_differences(one, other))
    assert any(line.startswith("pretrain: loss 8 → 12 (+50.0%)") for line in lines), lines
    assert any("torch" in line and line.endswith("→ 9.9") for line in lines), lines


def test_the_closest_artifact_has_the_fewest_differences_and_is_older(bench: Bench) -> None:
    far = bench.make("pretrain", {"a": 1, "b": 1, "c": 1})
    near = bench.make("pretrain", {"a": 1, "b": 2, "c": 2})
    made = bench.make("pretrain", {"a": 2, "b": 2, "c": 2})
    bench.make("pretrain", {"a": 2, "b": 2, "c": 3})  # later
    assert closest_artifact(bench.store, made, before=made) == near
    assert closest_artifact(bench.store, far, before=far) is None
    assert closest_artifact(bench.store, StageCall("pretrain", 1, {"a": 1, "b": 1, "c": 2}, {})) in (far, near)


def test_a_call_without_an_artifact_has_a_reason(bench: Bench) -> None:
    def reason(config: dict[str, Any]) -> str:
        return why_not_reused(bench.store, StageCall("pretrain", 1, config, {}))

    assert reason({"a": 1}) == "never made in this store"
    bench.make("pretrain", {"a": 1, "b": 1, "c": 1, "d": 1})
    assert reason({"a": 1, "b": 2, "c": 1, "d": 1}) == "b 1 → 2"
    assert reason({"a": 2, "b": 2, "c": 2, "d": 2}) == "a 1 → 2; b 1 → 2; c 1 → 2"
    assert reason({"a": 1, "b": 1, "c": 1, "d": 1}) == "the artifact in the store is damaged"


def test_the_tree_goes_down_too(bench: Bench) -> None:
    raw = bench.make("download", {"name": "a"})
    bench.make("download", {"name": "b"})
    tokens = bench.make("tokenize", {}, raw=raw)
    report = bench.make("report", {}, raw=raw, tokens=tokens)
    assert descendants(bench.store, raw) == [tokens, report]
    lines = [line.partition("  (")[0] for line in tree_down(bench.store, raw)]
    assert lines == [
        f"download {raw.key[:8]}",
        f"├─ tokenize {tokens.key[:8]}",
        f"│  └─ report {report.key[:8]}",
        f"└─ report {report.key[:8]} ↓",
    ]
