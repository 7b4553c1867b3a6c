"""Reinforcement learning is optional, and a field of it reruns only what depends on it."""

from __future__ import annotations

import pytest

from nanochat.config.overrides import override
from nanochat.execution.graph import nodes
from nanochat.graphs.pipeline import pretrain_to_chat
from nanochat.profiles import PROFILES
from nanochat.sources.shard_list import list_shards
from tests.promises.test_one_field_reruns_what_depends_on_it import keys as keys_of_pipeline

PROFILE = PROFILES["demo-rl"].config


def keys(changes: list[str]) -> dict[str, set[str]]:
    config = override(PROFILE, changes)
    return keys_of_pipeline(config, config.problems if config.problems.tasks else None)


def test_without_tasks_every_key_is_that_of_the_demo() -> None:
    assert keys(["problems.tasks=[]", "report.title=nanochat demo"]) == keys_of_pipeline(PROFILES["demo"].config)
    assert "problems" not in PROFILES["demo"].config.canonical()


def test_no_earlier_stage_changes_its_key() -> None:
    without, found = keys_of_pipeline(PROFILES["demo"].config), keys([])
    assert found.keys() - without.keys() == {"collect_problems", "rl"}
    assert {stage for stage in without if without[stage] != found[stage]} == {"evaluate_chat", "report"}
    assert without["evaluate_chat"] < found["evaluate_chat"]


@pytest.mark.parametrize(
    ("change", "below"),
    [
        ("rl.lr_fraction=0.1", {"rl", "evaluate_chat", "report"}),
        ("rl.loss.ratio=clip", {"rl", "evaluate_chat", "report"}),
        ("rl.preset=nanochat", {"rl", "evaluate_chat", "report"}),
        ('problems.tasks=[{"task":"sums","limit":9}]', {"collect_problems", "rl", "evaluate_chat", "report"}),
    ],
)
def test_a_field_reruns_what_depends_on_it(change: str, below: set[str]) -> None:
    before, after = keys([]), keys([change])
    assert {stage for stage in before if before[stage] != after[stage]} == below


def test_the_chat_model_of_the_run_is_the_last_one() -> None:
    graph = pretrain_to_chat(PROFILE, list_shards(PROFILE.data), PROFILE.conversations, None, PROFILE.problems)
    assert (graph.chat.stage.name, graph.chat_evaluation.label) == ("rl", "evaluate_chat rl")
    assert {node.label for node in nodes(graph)} >= {"sft", "rl", "evaluate_chat", "collect_problems"}
