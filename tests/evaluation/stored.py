"""Models and evaluations in a store, made without a network."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanochat.config.foreign import ForeignModelConfig
from nanochat.evaluation.examples import Example, write_examples
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import Manifest
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store


def model(store: Store, name: str, stage: str = "sft") -> Artifact:
    """A model without weights, with an alias."""
    return _publish(store, stage, "Model", name, {}, {"model.txt": name}, alias=f"chat/{name}")


def evaluation(
    store: Store, of: Artifact, examples: Sequence[Example], stage: str = "evaluate_chat", version: int = 2,
    **config: Any,
) -> Artifact:  # fmt: skip
    """An evaluation that has kept its answers; without examples, one that has not."""
    score = {"centered_accuracy": 0.25} if stage == "evaluate_chat" else {"bits_per_byte": 0.9}
    name = f"{of.key}{stage}{len(examples)}{config}"
    files = {"evaluation.json": "{}"}
    return _publish(store, stage, "Evaluation", name, {"model": of}, files, examples, score, version, config)


def trained(
    store: Store, stage: str, name: str, config: dict[str, Any], events: Sequence[dict[str, Any]],
    metrics: dict[str, Any],
) -> Artifact:  # fmt: skip
    """A model without weights, with the curves of its training."""
    lines = "\n".join(map(json.dumps, events))
    return _publish(
        store, stage, "Model", name, {}, {"metrics.jsonl": lines}, (), metrics, config=config, alias=f"chat/{name}"
    )


def scored(
    store: Store, of: Artifact, metrics: dict[str, Any], report: dict[str, Any], stage: str = "evaluate_chat",
    version: int = 2, config: dict[str, Any] | None = None, inputs: dict[str, Artifact] | None = None, seed: str = "",
) -> Artifact:  # fmt: skip
    """An evaluation with these scores, without answers; its questions are those of `report`."""
    given: dict[str, Any] = {"model": of, **(inputs or {})}
    if stage == "evaluate_chat":
        given["conversations"] = model(store, "questions", "converse")
    name = f"{of.key}{stage}{version}{metrics}{report}{config}{seed}"
    files = {"evaluation.json": json.dumps(report)}
    return _publish(store, stage, "Evaluation", name, given, files, (), metrics, version, config)


def foreign(store: Store, source: str, files: Sequence[tuple[str, str]], revision: str = "") -> Artifact:
    """The record of a model of Hugging Face."""
    config = ForeignModelConfig(source=source, files=tuple(files), revision=revision).canonical()
    return _publish(store, "foreign_model", "ForeignModel", source, {}, {"foreign.json": "{}"}, config=config)


def _publish(
    store: Store, stage: str, kind: str, name: str, inputs: dict[str, Any], files: dict[str, str],
    examples: Sequence[Example] = (), metrics: dict[str, Any] | None = None, version: int = 1,
    config: dict[str, Any] | None = None, alias: str = "",
) -> Artifact:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for file, text in files.items():
            (Path(folder) / file).write_text(text)
        if examples:
            write_examples(Path(folder), examples)
        manifest: Manifest = store.publish(
            Path(folder), stage=stage, stage_version=version, kind=kind, config=config or {}, inputs=inputs,
            key=hashlib.sha256(name.encode()).hexdigest(), metrics=metrics or {},
            producer=describe_producer(datetime.now(UTC)),
        )  # fmt: skip
    if alias:
        store.set_alias(alias, manifest)
    return store.artifact(manifest, reused=False)
