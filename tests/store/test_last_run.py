"""The last run: the newest completed one whose models have another config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanochat.config.chat import SFTConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.events import Event
from nanochat.graphs.resolve import with_compared_models
from nanochat.lineage.last_run import last_run
from nanochat.store.run_recording import record_run
from nanochat.store.store import Store

CONFIG: dict[str, Any] = {"sft": {"epochs": 1}, "data": {"source": str(Path.home() / "text")}, "report": {"title": "a"}}


def run(store: Store, config: dict[str, Any], key: str, *stages: str) -> None:
    with record_run(store, "demo", config) as record:
        for stage in stages or ("evaluate_chat", "report"):
            record(Event(label=stage, stage=stage, kind="finished", key=key))


def test_the_same_models_under_another_title_are_not_another_run(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    assert last_run(store, CONFIG) is None
    run(store, CONFIG, "aaaa")
    assert last_run(store, CONFIG) is None
    assert last_run(store, {**CONFIG, "report": {"title": "b"}}) is None
    changed = {**CONFIG, "sft": {"epochs": 2}}
    found = last_run(store, changed)
    assert found is not None and found[1] == {"evaluate_chat": "aaaa"}
    run(store, {**CONFIG, "sft": {"epochs": 3}}, "bbbb", "evaluate_chat")
    assert last_run(store, changed) == found, "it has no report: it was no run of the pipeline"


def test_a_later_run_does_not_put_a_report_out_of_date(tmp_path: Path) -> None:
    store, config = Store(str(tmp_path / "store"), tmp_path / "cache"), PipelineConfig()
    run(store, config.model_copy(update={"sft": SFTConfig(epochs=2)}).canonical(), "aaaa")
    found = with_compared_models(config, store)
    assert [each.evaluations for each in found.report.compared] == [("evaluate_chat/aaaa",)]
    assert found.canonical() == config.canonical()
