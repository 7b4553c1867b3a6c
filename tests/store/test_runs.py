"""A run's record: at the start, on the way, at the end, and when its process dies."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from nanochat.config.data import ShardConfig, WorldConfig
from nanochat.errors import BadSource, DamagedArtifact, NanochatError, NoSpace, NotFound
from nanochat.events import Event
from nanochat.execution.local import run_local
from nanochat.stages.download import download
from nanochat.store import run_recording, runs
from nanochat.store.artifacts import Artifact
from nanochat.store.producer import describe_producer
from nanochat.store.run_recording import record_run
from nanochat.store.store import Store
from tests.compute import compute
from tests.recorded_runs import newest
from tests.waiting import until

DIES = """
import sys, time
from pathlib import Path
from nanochat.events import Event
from nanochat.store import run_recording, runs
from nanochat.store.run_recording import record_run
from nanochat.store.store import Store
run_recording.HEARTBEAT_S = 0.1
store = Store(sys.argv[1], Path(sys.argv[2]))
with record_run(store, "demo", {}) as record:
    record(Event(label="download shard", stage="download", kind="started"))
    store.find("download", "k" * 64)
    while runs.find(store, record.record.id).record.beat <= 2:
        time.sleep(0.1)
    print(record.record.id, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def store(root: str, tmp_path: Path) -> Store:
    return Store(root, tmp_path / "cache")


def artifact(store: Store, folder: Path, key: str) -> Artifact:
    out = folder / key[:8]
    out.mkdir()
    (out / "data").write_text(key)
    manifest = store.publish(
        out, stage="evaluate_chat", stage_version=1, kind="Evaluation", key=key, config={}, inputs={}, metrics={},
        producer=describe_producer(datetime.now(UTC)),
    )  # fmt: skip
    return store.artifact(manifest, reused=False)


def test_a_run_is_recorded_from_its_start_to_its_end(store: Store, tmp_path: Path) -> None:
    with record_run(store, "demo", {"sft": {"epochs": 2}}, flow_run="f1") as record:
        (seen,) = newest(store)
        assert (seen.state, seen.record.profile, seen.record.stages) == ("running", "demo", {})
        for label in "ab":
            record(Event(label=label, stage="evaluate_chat", kind="started"))
            artifact(store, tmp_path, label * 64)
        finished = partial(Event, stage="evaluate_chat", kind="finished")
        record(finished(label="a", key="a" * 64, seconds=2.0, metrics={"centered_accuracy": 0.5}))
        record(finished(label="b", key="b" * 64, cached=True))
        record.write()
        (seen,) = newest(store)
        assert seen.names == {("evaluate_chat", "a" * 64), ("evaluate_chat", "b" * 64)}
        assert len(seen.record.holds) == 2
    seen = runs.find(store, record.record.id[-6:])
    assert seen.state == "completed"
    assert [(label, each.state, each.seconds) for label, each in seen.record.stages.items()] == [
        ("a", "computed", 2.0), ("b", "reused", 0.0),
    ]  # fmt: skip
    assert (seen.record.chat_score, seen.record.config, seen.record.flow_run) == (0.5, {"sft": {"epochs": 2}}, "f1")
    assert seen.record.holds == []


class Stopped(BadSource):
    """As the flow's."""


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (BadSource("The shard is empty.", hint="Take another."), "failed", "The shard is empty. Take another."),
        (Stopped("Stopped by Ctrl-C."), "cancelled", "Stopped by Ctrl-C."),
        (KeyboardInterrupt(), "cancelled", ""),
        (ValueError("x"), "failed", "It failed: ValueError('x')."),
    ],
)
def test_the_error_that_ends_a_run_is_recorded(tmp_path: Path, error: BaseException, state: str, message: str) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    with pytest.raises(type(error)), record_run(store, "demo", {}, stopped_by=(Stopped,)) as record:
        for label in ("broken", "beside"):
            record(Event(label=label, stage="download", kind="started"))
        record(Event(label="broken", stage="download", kind="failed"))
        raise error
    seen = runs.find(store, record.record.id)
    assert (seen.state, seen.record.error) == (state, message)
    assert [each.state for each in seen.record.stages.values()] == ["failed", "stopped"]


def test_a_run_whose_process_died_is_lost(store: Store, root: str, tmp_path: Path, monkeypatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DIES, root, str(tmp_path / "c")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        assert runs.find(store, run_id).state == "running"
        process.kill()
    seen = runs.find(store, run_id)
    assert seen.record.beat > 2
    assert seen.record.stages["download shard"].state == "running"
    assert seen.names == {("download", "k" * 64)}
    assert seen.state == "running"
    assert dataclasses.replace(seen, modified_s=time.time() - 2 * runs.LOST_AFTER_S).state == "lost"
    monkeypatch.setattr(runs, "LOST_AFTER_S", -10.0)
    assert newest(store)[0].state == "lost"


def test_newest_first_and_a_name_that_is_short_or_wrong(store: Store) -> None:
    ids = []
    for _ in range(3):
        with record_run(store, "demo", {}) as record:
            ids.append(record.record.id)
        time.sleep(1.1 if len(ids) < 3 else 0)
    assert [run.record.id for run in newest(store)] == ids[::-1]
    assert [run.record.id for run in newest(store, 2)] == ids[:0:-1]
    with pytest.raises(NotFound, match="could be"):
        runs.find(store, ids[0][:4])
    for name in ("nothing", ""):
        with pytest.raises(NotFound, match="There is no run"):
            runs.find(store, name)
    runs.pin(store, ids[0])
    runs.pin(store, ids[0])
    assert [run.pinned for run in newest(store)] == [False, False, True]
    assert [run.record.id for run in runs.everything(store)] == ids[::-1]
    runs.unpin(store, ids[0])
    assert runs.pins(store) == set()


def test_a_record_contains_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    config = {"data": {"source": "https://me:secret@host/a?token=secret&x=1"}, "list": ["/home/someone/text"]}
    with pytest.raises(BadSource), record_run(store, "demo", config) as record:
        raise BadSource("`/home/someone/text` is empty, `s3://me:secret@host` too.")
    written = store.objects.read(f"v1/runs/{record.record.id}.json").decode()
    assert "secret" not in written
    assert "someone" not in written
    assert json.loads(written)["config"]["data"]["source"] == "https://host/a?token=…&x=1"


def test_a_store_that_goes_away_ends_neither_the_heartbeat_nor_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_recording, "HEARTBEAT_S", 0.05)
    store = Store(str(tmp_path / "store"), tmp_path / "cache")

    def away(*_: object) -> None:
        raise NoSpace("full")

    with record_run(store, "demo", {}) as record:
        with monkeypatch.context() as patch:
            patch.setattr(store.objects, "write", away)
            time.sleep(0.2)
        before = runs.find(store, record.record.id).record.beat
        until(lambda: runs.find(store, record.record.id).record.beat > before, "a heartbeat")
        monkeypatch.setattr(store.objects, "write", away)


def test_what_is_no_record_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    store.objects.write("v1/runs/x.json", b"{}")
    found, unread = runs.survey(store)
    assert found == []
    assert isinstance(unread["v1/runs/x.json"], DamagedArtifact)


def test_a_local_run_records_which_node_failed(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    shards = [
        ShardConfig(name="whole", url="world:0", identity="", world=WorldConfig(documents_per_shard=10)),
        ShardConfig(name="missing", url=str(tmp_path / "missing.txt"), identity=""),
    ]
    with pytest.raises(NanochatError) as caught, record_run(store, "demo", {}) as record:
        nodes = [download(shard, item=shard.name) for shard in shards]
        run_local(nodes, store, compute(count=1), tmp_path / "runs", [record])
    seen = newest(store)[0].record
    assert {label: each.state for label, each in seen.stages.items()} == {
        "download whole": "computed", "download missing": "failed",
    }  # fmt: skip
    assert (seen.state, seen.error) == ("failed", str(caught.value))
