"""A stage reuses what the store has, computes what it has not, and leaves nothing half-written."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from nanochat.config.base import Config
from nanochat.config.compute import Compute
from nanochat.errors import NoSpace, Unexpected, WrongKind
from nanochat.execution.attempt import Attempt
from nanochat.execution.stage import Context, Metrics, Stage, stage
from nanochat.store.artifacts import RawShard, Vocabulary
from nanochat.store.store import Store


class Letters(Config):
    """For these tests."""

    letters: str = "abc"
    """What to write."""


class Size(Config):
    """For these tests."""

    size: int = 3
    """What to write."""


CALLS: list[str] = []


@stage(version=1, produces=RawShard, resource="cpu")
def shard(config: Letters, *, out: Path, context: Context) -> Metrics:
    """Writes letters, in lower case."""
    CALLS.append("shard")
    (out / "train.parquet").write_text(config.letters.lower())
    return {"letters": len(config.letters)}


@stage(version=1, produces=Vocabulary, resource="cpu")
def vocabulary(config: Size, raw: list[RawShard], *, out: Path, context: Context) -> Metrics:
    """Joins shards."""
    CALLS.append("vocabulary")
    (out / "vocabulary.json").write_text("".join((part.path / "train.parquet").read_text() for part in raw))
    return {}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    CALLS.clear()
    return Store(str(tmp_path / "store"), tmp_path / "cache")


def run(stage: Stage[Any, Any], config: Config, store: Store, tmp_path: Path, **inputs: Any) -> Any:
    return Attempt(stage, config, inputs, store, Compute(), tmp_path / "runs").produce()


def test_the_second_time_is_a_hit(store: Store, tmp_path: Path) -> None:
    first, second = (run(shard, Letters(), store, tmp_path) for _ in range(2))
    assert (first.reused, second.reused, CALLS) == (False, True, ["shard"])
    assert first.digest == second.digest


def test_equal_bytes_of_another_question_stop_the_recomputation(store: Store, tmp_path: Path) -> None:
    one = run(shard, Letters(letters="abc"), store, tmp_path)
    run(vocabulary, Size(), store, tmp_path, raw=[one])
    other = run(shard, Letters(letters="ABC"), store, tmp_path)
    assert other.key != one.key
    assert run(vocabulary, Size(), store, tmp_path, raw=[other]).reused


def test_a_lost_payload_is_made_again(store: Store, tmp_path: Path) -> None:
    first = run(shard, Letters(), store, tmp_path)
    (first.path / "train.parquet").unlink()
    assert not run(shard, Letters(), store, tmp_path).reused
    assert run(shard, Letters(), store, tmp_path).reused


def test_a_wrong_kind_is_one_sentence(store: Store, tmp_path: Path) -> None:
    one = run(shard, Letters(), store, tmp_path)
    joined = run(vocabulary, Size(), store, tmp_path, raw=[one])
    with pytest.raises(WrongKind, match=r"`vocabulary` takes `raw: list\[RawShard\]`, got Vocabulary"):
        run(vocabulary, Size(), store, tmp_path, raw=[joined])
    with pytest.raises(WrongKind, match=r"takes the inputs \['raw'\]"):
        run(vocabulary, Size(), store, tmp_path)


@stage(version=1, produces=RawShard, resource="cpu")
def full(config: Letters, *, out: Path, context: Context) -> Metrics:
    """Meets a full disk."""
    (out / "train.parquet").write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_was_full_before_is_the_same_sentence(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Attempt, "_prepare", no_room)
    with pytest.raises(NoSpace, match="No space left for the stage `full`"):
        run(full, Letters(), store, tmp_path)


def test_a_full_disk_is_one_sentence_and_leaves_no_artifact(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="No space left for the stage `full`"):
        run(full, Letters(), store, tmp_path)
    assert list(store.manifests()) == []


@stage(version=1, produces=RawShard, resource="cpu")
def broken(config: Letters, *, out: Path, context: Context) -> Metrics:
    """Has a mistake."""
    return {"letters": {}["letters"]}


def test_a_mistake_in_a_stage_is_one_sentence_with_its_report(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    with pytest.raises(Unexpected, match=r"^The stage `broken` failed \(KeyError: 'letters'\)") as raised:
        run(broken, Letters(), store, tmp_path)
    (report,) = (tmp_path / "home" / "crashes").iterdir()
    assert str(report) in raised.value.hint
    assert "in broken" in report.read_text()
    assert list(store.manifests()) == []
