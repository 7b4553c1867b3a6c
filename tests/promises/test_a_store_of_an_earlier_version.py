"""A store that an earlier version wrote is read: every node is cached, aliases and records resolve, training resumes.

`tests/old_store/store.tar.xz` has two runs of commit 8b4e715: a complete one of a tiny pipeline on the invented world,
and one that was stopped while pretraining, with a checkpoint. Their configs are in their run records. Never write it
again with newer code: a test that fails here means that artifacts of users would be computed once more.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from nanochat.config.overrides import parse
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import Stopped
from nanochat.events import Event
from nanochat.execution.local import run_local
from nanochat.execution.plan import plan
from nanochat.graphs import resolve
from nanochat.graphs.pipeline import Chat, pretrain_to_chat
from nanochat.store.runs import RunRecord
from nanochat.store.store import Store
from tests.compute import compute
from tests.recorded_runs import newest

ARCHIVE = Path(__file__).parents[1] / "old_store/store.tar.xz"
CHECKPOINT_STEP = 5
NEWER = {"converse": 4, "evaluate_chat": 2, "report": 7}
"""Stages whose version rose since then."""
SAME_BYTES = {"converse"}
"""Those that write the same bytes for this run, so that what follows them stays cached."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "store", filter="data")
    return Store(str(tmp_path / "store"), tmp_path / "cache")


def record(store: Store, state: str) -> RunRecord:
    (found,) = [run.record for run in newest(store) if run.state == state]
    return found


def graph(store: Store, of: RunRecord) -> Chat:
    config = parse(PipelineConfig, of.config)
    shards = resolve.shards(config.data, store, keep=False)
    return pretrain_to_chat(config, shards, resolve.conversations(config.conversations))


def test_every_node_is_cached_under_the_key_of_its_record(store: Store, tmp_path: Path) -> None:
    """Stages of a newer version run again. Those after them are cached if the same bytes came out."""
    before = record(store, "completed")
    again = graph(store, before)
    run_local(again.conversations, store, compute(device="cpu"), tmp_path / "runs")
    planned = plan(again, store)
    assert {entry.node.label for entry in planned if not entry.artifact} == NEWER.keys() - SAME_BYTES
    assert {entry.node.label: entry.node.stage.version for entry in planned if entry.node.label in NEWER} == NEWER
    keys = {entry.node.label: entry.artifact.key for entry in planned if entry.artifact}
    expected = {label: stage.key for label, stage in before.stages.items() if label not in NEWER}
    assert {label: key for label, key in keys.items() if label not in NEWER} == expected
    assert len(before.stages) == 14


def test_payloads_are_whole_and_aliases_lead_to_them(store: Store) -> None:
    keys = {label: stage.key for label, stage in record(store, "completed").stages.items()}
    aliases = {"base/latest": "pretrain", "chat/latest": "sft", "report/latest": "report"}
    assert {alias: store.resolve(alias).key for alias in aliases} == {
        alias: keys[stage] for alias, stage in aliases.items()
    }
    for manifest in store.manifests():
        assert store.artifact(manifest, reused=True).path.is_dir()  # verifies sizes and SHA-256


@pytest.mark.slow
def test_training_resumes_from_a_checkpoint(store: Store, tmp_path: Path) -> None:
    base = graph(store, record(store, "cancelled")).base
    steps: list[float] = []

    def stop_after_a_step(event: Event) -> None:
        if event.kind == "progress" and event.unit == "steps":
            steps.append(event.done)
            if event.done > CHECKPOINT_STEP:
                raise Stopped("It resumed.")

    with pytest.raises(Stopped, match="It resumed"):
        run_local(base, store, compute(device="cpu"), tmp_path / "runs", [stop_after_a_step])
    assert CHECKPOINT_STEP in steps
    assert not [step for step in steps if 0 < step < CHECKPOINT_STEP], "it started again"
