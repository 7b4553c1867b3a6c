"""Change one field, whichever: the stages below it get another key, and no other stage does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanochat.config.overrides import flatten, override
from nanochat.config.pipeline import PipelineConfig
from nanochat.config.rl import ProblemsConfig
from nanochat.errors import NanochatError
from nanochat.execution.graph import Results, nodes
from nanochat.graphs.pipeline import Chat, pretrain_to_chat
from nanochat.profiles import PROFILES
from nanochat.sources.shard_list import list_shards

AFTER_PRETRAIN = {"pretrain", "evaluate_base", "sft", "evaluate_chat", "report"}
AFTER_TOKENIZE = {"pack", "data_card"} | AFTER_PRETRAIN
AFTER_TOKENIZER = {"tokenize", "converse"} | AFTER_TOKENIZE
BELOW = {
    "data": {"download", "train_tokenizer"} | AFTER_TOKENIZER,
    "tokenizer": {"train_tokenizer"} | AFTER_TOKENIZER,
    "tokens": {"tokenize"} | AFTER_TOKENIZE,
    "rows": AFTER_TOKENIZE,
    "data_card": {"data_card", "report"},
    "pretrain": AFTER_PRETRAIN,
    "base_evaluation": {"evaluate_base", "report"},
    "conversations": {"converse", "sft", "evaluate_chat", "report"},
    "sft": {"sft", "evaluate_chat", "report"},
    "chat_evaluation": {"evaluate_chat", "report"},
    "report": {"report"},
}
"""Section of the config → the stages that run again when one of its fields changes."""
DEMO = PROFILES["demo"].config
CANDIDATES: dict[type, tuple[Any, ...]] = {
    bool: (False, True),
    int: (1, 2, 8, 64, 4096, 8192, 1 << 22),
    float: (0.25, 2.0, 1.5, 4e6),
    str: ("world_00001", "tokens", "steps", "bf16", "fp32", "L", "roll_back", "another"),
    list: (["other"], [{"task": "spelling"}]),
}
UNUSED = ("data.source", "data.text_column", "data.subset", "data.split")
"""Another source needs files; the invented world has no columns."""
FIELDS = [path for path in flatten(DEMO.canonical()) if path not in UNUSED]


def keys(config: PipelineConfig, problems: ProblemsConfig | None = None) -> dict[str, set[str]]:
    """The keys of the pipeline with this config."""
    return keys_of(pretrain_to_chat(config, list_shards(config.data), config.conversations, None, problems))


def keys_of(graph: Chat) -> dict[str, set[str]]:
    """Stage → keys, without running anything: the digest of each artifact is a hash of its key."""
    found: dict[str, set[str]] = {}
    results = Results()
    for node in nodes(graph):
        key = node.stage.key(node.config, results.inputs_of(node))
        found.setdefault(node.stage.name, set()).add(key)
        artifact = object.__new__(node.stage.kind)
        artifact.digest = hashlib.sha256(key.encode()).hexdigest()
        results[node] = artifact
    return found


def changed(path: str) -> Iterator[dict[str, set[str]]]:
    """Keys with another value there, one that can be."""
    before = flatten(DEMO.model_dump(mode="json"))[path]
    for value in CANDIDATES[type(before)]:
        if value != before:
            try:
                yield keys(override(DEMO, [f"{path}={json.dumps(value)}"]))
            except NanochatError:
                continue


@pytest.mark.parametrize("path", FIELDS)
def test_exactly_the_stages_below_it(path: str, tmp_path: Path) -> None:
    before = keys(DEMO)
    after = next(changed(path))
    assert {stage for stage in before if before[stage] != after[stage]} == BELOW[path.split(".")[0]]
