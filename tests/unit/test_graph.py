"""Graphs as data: nodes are checked when they are built, run level by level, and planned without running."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanochat.config.base import Config
from nanochat.config.compute import Compute, DataWorkers
from nanochat.errors import BadSource, Stopped, WrongKind
from nanochat.events import Event, Reporter, StopRequest
from nanochat.execution.graph import groups
from nanochat.execution.local import run_local
from nanochat.execution.plan import plan
from nanochat.execution.stage import Context, Metrics, Node, stage
from nanochat.store.artifacts import RawShard, Rows, Vocabulary
from nanochat.store.store import Store

ENDED = threading.Event()
"""Set when the endless node has ended."""


class Letters(Config):
    """For these tests."""

    letters: str = "abc"
    """What to write; `fail` fails, `endless` never ends by itself."""


@stage(version=1, produces=RawShard, resource="cpu")
def shard(config: Letters, *, out: Path, context: Context) -> Metrics:
    """Writes letters."""
    if config.letters == "fail":
        raise BadSource("This shard fails.")
    try:
        while config.letters == "endless":
            context.progress(0, 0, "rounds")
            time.sleep(0.01)
    finally:
        ENDED.set()
    (out / "text").write_text(config.letters)
    return {"letters": len(config.letters)}


@stage(version=1, produces=Vocabulary, resource="cpu")
def join(config: Letters, raw: list[RawShard], *, out: Path, context: Context) -> Metrics:
    """Joins shards."""
    (out / "text").write_text("".join((each.path / "text").read_text() for each in raw))
    return {"shards": len(raw)}


@stage(version=1, produces=Rows, resource="gpu")
def pack(config: Letters, raw: RawShard, vocabulary: Vocabulary, *, out: Path, context: Context) -> Metrics:
    """Takes one shard and the vocabulary."""
    (out / "text").write_text((raw.path / "text").read_text())
    return {}


@dataclass(frozen=True)
class Text:
    """A graph of three levels."""

    rows: list[Node[Rows]]
    vocabulary: Node[Vocabulary]


def text(*letters: str) -> Text:
    raw = [shard(Letters(letters=each), item=each) for each in letters]
    vocabulary = join(Letters(), raw=raw)
    return Text([pack(Letters(), item=each.label, raw=each, vocabulary=vocabulary) for each in raw], vocabulary)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    ENDED.clear()
    return Store(str(tmp_path / "store"), tmp_path / "cache")


def test_building_a_node_checks_kinds_and_runs_nothing(tmp_path: Path) -> None:
    raw = shard(Letters())
    vocabulary = join(Letters(), raw=[raw])
    assert (vocabulary.label, vocabulary.parents) == ("join", [raw])
    wrong: list[tuple[Any, str]] = [
        (lambda: join(Letters(), raw=[vocabulary]), r"`join` takes `raw: list\[RawShard\]`, got Vocabulary"),
        (lambda: join(Letters(), raw=raw), r"`join` takes `raw: list\[RawShard\]`, got RawShard"),
        (lambda: pack(Letters(), raw=[raw], vocabulary=vocabulary), "`pack` takes `raw: RawShard`"),
        (lambda: join(Letters()), r"takes the inputs \['raw'\], got \[\]"),
        (lambda: join(Compute(), raw=[raw]), "takes a Letters, got a Compute"),  # pyright: ignore[reportArgumentType]
    ]
    for build, message in wrong:
        with pytest.raises(WrongKind, match=message):
            build()


def test_groups_are_nodes_of_one_stage_on_one_level() -> None:
    found = [[node.label for node in group.nodes] for group in groups(text("a", "b"))]
    assert found == [["shard a", "shard b"], ["join"], ["pack shard a", "pack shard b"]]
    assert [group.is_parallel for group in groups(text("a", "b"))] == [True, False, False], "one GPU stage at a time"
    with pytest.raises(AssertionError, match="not unique"):
        groups([shard(Letters()), shard(Letters(letters="d"))])


def test_a_run_reports_each_node_and_a_plan_finds_what_it_made(store: Store, tmp_path: Path) -> None:
    graph = text("a", "b")
    before = plan(graph, store)
    assert [(entry.node.label, entry.artifact is None) for entry in before][:1] == [("shard a", True)]
    assert before[0].why == "never made in this store"
    assert before[2].why == "its input comes from shard, which would run"
    assert list(store.manifests()) == [], "a plan made something"
    events: list[Event] = []
    results = run_local(graph, store, Compute(), tmp_path / "runs", [events.append])
    assert [(results[rows].path / "text").read_text() for rows in graph.rows] == ["a", "b"]
    assert results[graph.vocabulary].metrics == {"shards": 2}
    finished = {event.label: event for event in events if event.kind == "finished"}
    assert len(finished) == 5
    assert [event.kind for event in events if event.label == "join"] == ["queued", "started", "finished"]
    assert finished["join"].key == results[graph.vocabulary].key
    assert not finished["join"].cached
    assert all(entry.artifact and not entry.why for entry in plan(text("a", "b"), store))
    assert {event.cached for event in _finished(text("a", "b"), store, tmp_path)} == {True}


def _finished(graph: Text, store: Store, tmp_path: Path) -> list[Event]:
    events: list[Event] = []
    run_local(graph, store, Compute(), tmp_path / "runs", [events.append])
    return [event for event in events if event.kind == "finished"]


def test_a_node_that_fails_ends_the_others_of_its_group(store: Store, tmp_path: Path) -> None:
    events: list[Event] = []
    compute = Compute(data_workers=DataWorkers(count=2))
    with pytest.raises(BadSource, match="This shard fails"):
        run_local(text("endless", "fail"), store, compute, tmp_path / "runs", [events.append])
    assert ENDED.is_set()
    assert [(event.label, event.error) for event in events if event.kind == "failed"] == [
        ("shard fail", "This shard fails.")
    ]


def test_a_sink_that_raises_ends_the_stage(store: Store, tmp_path: Path) -> None:
    stop = StopRequest()

    def interrupt(event: Event) -> None:
        if event.kind == "progress":
            stop.request("Stopped by a test.")
            stop.request("A second reason.")

    with pytest.raises(Stopped, match=r"^Stopped by a test\.$"):
        run_local(text("endless"), store, Compute(), tmp_path / "runs", [interrupt, stop])
    assert list(store.manifests()) == []


def test_a_sink_that_is_added_comes_first() -> None:
    order: list[str] = []
    reporter = Reporter("label", "stage", (lambda _: order.append("second"),)).with_sink(
        lambda _: order.append("first")
    )
    reporter(1, 2, "steps", metrics={"loss": 3.0})
    assert order == ["first", "second"]
