"""Keys and digests: they change with what matters, and with nothing else."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.errors import DamagedArtifact, WrongKind
from nanochat.store.artifacts import KINDS
from nanochat.store.manifest import FileEntry, Manifest, compute_key, describe_file, payload_digest
from nanochat.store.object_names import is_path
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
configs = st.dictionaries(st.text(min_size=1, max_size=6), values, min_size=1, max_size=5)
inputs = st.dictionaries(
    st.sampled_from(["raw", "vocabulary", "rows"]), st.lists(st.text("0123456789abcdef"), max_size=3)
)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        names = list(value)
        order.shuffle(names)
        return {name: shuffled(value[name], order) for name in names}
    return [shuffled(each, order) for each in value] if isinstance(value, list) else value


@given(configs, inputs, st.randoms(use_true_random=False))
def test_the_order_of_fields_does_not_matter(
    config: dict[str, Any], given_inputs: dict[str, list[str]], order: random.Random
) -> None:
    key = compute_key("tokenize", 1, config, given_inputs)
    assert compute_key("tokenize", 1, shuffled(config, order), dict(reversed(given_inputs.items()))) == key
    assert len(key) == 64


@given(configs, st.data())
def test_any_change_of_a_field_changes_the_key(config: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(config)))
    other = data.draw(values)
    changed = {**config, name: other}
    same = json.dumps(changed, sort_keys=True) == json.dumps(config, sort_keys=True)
    assert (compute_key("tokenize", 1, changed, {}) == compute_key("tokenize", 1, config, {})) == same
    without = {each: value for each, value in config.items() if each != name}
    assert compute_key("tokenize", 1, without, {}) != compute_key("tokenize", 1, config, {})


def test_stage_version_and_inputs_are_part_of_the_key() -> None:
    cases: list[tuple[str, int, dict[str, list[str]]]] = [
        ("tokenize", 1, {"raw": ["a", "b"]}),
        ("pack", 1, {"raw": ["a", "b"]}),
        ("tokenize", 2, {"raw": ["a", "b"]}),
        ("tokenize", 1, {"raw": ["b", "a"]}),  # the order of shards is the order of the data
        ("tokenize", 1, {"raw": ["a"], "more": ["b"]}),
        ("tokenize", 1, {"raw": ["ab"]}),
    ]
    assert len({compute_key(stage, version, {}, given_inputs) for stage, version, given_inputs in cases}) == len(cases)


entries = st.lists(
    st.builds(
        FileEntry, path=st.text(min_size=1, max_size=6).filter(is_path), size=st.integers(0, 100),
        sha256=st.just("0" * 64),
    ),
    min_size=1, max_size=4, unique_by=lambda entry: entry.path,
)  # fmt: skip


@given(entries, st.data())
def test_a_digest_is_that_of_the_set_of_files(files: list[FileEntry], data: st.DataObject) -> None:
    assert payload_digest(data.draw(st.permutations(files))) == payload_digest(files)
    changed = files[0].model_copy(update=data.draw(st.sampled_from([{"size": 101}, {"sha256": "1" * 64}])))
    assert payload_digest([changed, *files[1:]]) != payload_digest(files)


def manifest(tmp_path: Path, **changes: Any) -> Manifest:
    (tmp_path / "data").write_text("x")
    files = [describe_file(tmp_path / "data", "data")]
    return Manifest(
        **{
            "stage": "download", "stage_version": 1, "kind": "RawShard", "key": "k", "digest": payload_digest(files),
            "config": {"name": "s"}, "inputs": {}, "files": files, "metrics": {"n": 1.5}, "payload": "p",
            "producer": describe_producer(datetime.now(UTC)), **changes,
        }
    )  # fmt: skip


def test_a_manifest_survives_json(tmp_path: Path) -> None:
    one = manifest(tmp_path)
    assert Manifest.model_validate_json(one.model_dump_json()) == one


def test_the_producer_lists_code_and_hardware() -> None:
    producer = describe_producer(datetime.now(UTC) - timedelta(seconds=5), run="brave-fox")
    assert producer.run == "brave-fox"
    assert 5 <= producer.seconds < 60
    assert len(producer.code_sha256) == 64
    assert producer.hardware["cores"] > 0
    assert producer.hardware["memory_bytes"] > 2**20
    assert {"python", "torch", "pyarrow", "prefect"} <= set(producer.packages)


def test_a_kind_of_another_version_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    for name, kind in KINDS.items():
        assert type(store.artifact(manifest(tmp_path, kind=name), reused=True)) is kind
    with pytest.raises(WrongKind, match="Hologram"):
        store.artifact(manifest(tmp_path, kind="Hologram"), reused=True)


def test_half_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    store.objects.write("v1/artifacts/download/k/manifest.json", manifest(tmp_path).model_dump_json().encode()[:-9])
    with pytest.raises(DamagedArtifact, match=r"manifest\.json"):
        store.find("download", "k")
