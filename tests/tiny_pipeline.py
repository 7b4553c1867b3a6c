"""A pipeline whose stages take milliseconds, for tests that run it hundreds of times.

The stages of the text are the real ones, on a few lines of text; those that train or draw are replaced by small ones
that read all their inputs and save a checkpoint, as the real ones do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
import torch

from nanochat.config.base import AbsentMeans
from nanochat.config.chat import ChatEvaluationConfig, SFTConfig
from nanochat.config.overrides import override
from nanochat.config.pipeline import PipelineConfig, ReportConfig
from nanochat.config.training import BaseEvaluationConfig, ModelConfig, PretrainConfig
from nanochat.errors import DamagedArtifact
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.graphs import pipeline
from nanochat.model.architecture import Architecture
from nanochat.model.files import save_model
from nanochat.model.gpt import GPT
from nanochat.profiles import profile
from nanochat.store.artifacts import (
    Artifact,
    Conversations,
    CoreBundle,
    DataCard,
    Evaluation,
    Model,
    RawShard,
    Report,
    Rows,
    TokenShard,
    Vocabulary,
)
from nanochat.training.checkpoint import Checkpoints

SEQUENCE_LEN = 32
VOCABULARY = 280


@stage(version=1, produces=Model, resource="gpu")
def pretrain(
    config: PretrainConfig, vocabulary: Vocabulary, rows: list[Rows],
    bundle: Annotated[list[CoreBundle], AbsentMeans(())], *, out: Path, context: Context,
) -> Metrics:  # fmt: skip
    """Saves a checkpoint, then an untrained model."""
    _read(*rows, *bundle)
    kept = Checkpoints(context.checkpoints, context.folder / "spool", keep=1)
    state = {"weight": torch.zeros(8)}
    kept.resume(state)
    kept.save(1, 8, state, {}, [])
    kept.wait()
    _save_model(out, vocabulary.path / "vocabulary.json")
    return {"steps": 1}


@stage(version=1, produces=Evaluation, resource="cpu")
def evaluate_base(
    config: BaseEvaluationConfig, model: Model, rows: list[Rows], *, out: Path, context: Context
) -> Metrics:
    """Counts bytes."""
    return _count(out, model, *rows)


@stage(version=1, produces=Model, resource="cpu")
def sft(config: SFTConfig, base: Model, conversations: Conversations, *, out: Path, context: Context) -> Metrics:
    """The base model once more."""
    _read(conversations)
    _save_model(out, base.path / "vocabulary.json")
    return {"steps": 1}


@stage(version=1, produces=Evaluation, resource="cpu")
def evaluate_chat(
    config: ChatEvaluationConfig, model: Model, conversations: Conversations, *, out: Path, context: Context
) -> Metrics:
    """Counts bytes."""
    return {**_count(out, model, conversations), "centered_accuracy": 0.25}


@stage(version=1, produces=Report, resource="cpu")
def report(
    config: ReportConfig, raw: list[RawShard], vocabulary: Vocabulary, tokens: list[TokenShard], rows: list[Rows],
    data_card: DataCard, base: Model, base_evaluation: Evaluation, conversations: Conversations, chat: Model,
    chat_evaluation: Evaluation, core: Annotated[list[Evaluation], AbsentMeans(())],
    dpo: Annotated[list[Model], AbsentMeans(())], dpo_evaluation: Annotated[list[Evaluation], AbsentMeans(())],
    rl: Annotated[list[Model], AbsentMeans(())], rl_evaluation: Annotated[list[Evaluation], AbsentMeans(())],
    *, out: Path, context: Context,
) -> Metrics:  # fmt: skip
    """Counts bytes."""
    read = (*raw, vocabulary, *tokens, *rows, data_card, base, base_evaluation, chat, chat_evaluation, *core)
    metrics = _count(out, *read)
    (out / "report.html").write_text("<p>tiny</p>")
    return metrics


REPLACED = (pretrain, evaluate_base, sft, evaluate_chat, report)
"""Trained or drawn by others: `torchrun` starts processes, and these faults meet only this one."""
REAL = (pipeline.download, pipeline.train_tokenizer, pipeline.tokenize, pipeline.pack, pipeline.data_card,
        pipeline.converse)  # fmt: skip


def install(patch: pytest.MonkeyPatch) -> None:
    """Puts the small stages into the graph."""
    for each in REPLACED:
        patch.setattr(pipeline, each.name, each)


def write_text(folder: Path) -> Path:
    """A source of two shards, and a file of conversations."""
    (folder / "text").mkdir(parents=True)
    for shard in range(2):
        lines = [json.dumps({"text": f"Line {n} of shard {shard}. " * 6}) for n in range(20)]
        (folder / "text" / f"shard_{shard}.jsonl").write_text("\n".join(lines) + "\n")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    (folder / "chats.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 20)
    return folder


def changes(folder: Path) -> list[str]:
    """What makes the profile `demo` tiny."""
    item = json.dumps([{"task": "conversations", "source": str(folder / "chats.jsonl")}])
    questions = json.dumps([{"task": "spelling", "limit": 3}])
    return [
        f"data.source={folder / 'text'}", "data.validation_documents=2", f"tokenizer.vocab_size={VOCABULARY}",
        f"rows.sequence_len={SEQUENCE_LEN}", f"conversations.sequence_len={SEQUENCE_LEN}",
        f"conversations.train={item}", f"conversations.validation={item}", f"conversations.questions={questions}",
        "pretrain.batch_tokens=256",
    ]  # fmt: skip


def config(folder: Path) -> PipelineConfig:
    return override(profile("demo").config, changes(folder))


def _save_model(out: Path, vocabulary: Path) -> None:
    options = ModelConfig(depth=1, aspect_ratio=8, head_dim=8, window_pattern="L")
    model = GPT(Architecture(model=options, vocab_size=VOCABULARY, sequence_len=SEQUENCE_LEN))
    model.init_weights(1)
    save_model(out, model)
    (out / "vocabulary.json").write_bytes(vocabulary.read_bytes())


def _read(*artifacts: Artifact) -> int:
    """Bytes of all their files."""
    count = 0
    for each in artifacts:
        for file in each.manifest.files:
            data = (each.path / file.path).read_bytes()
            if len(data) != file.size:
                raise DamagedArtifact(f"`{file.path}` of {each.stage} has {len(data)} bytes.")
            count += len(data)
    return count


def _count(out: Path, *artifacts: Artifact) -> Metrics:
    count = _read(*artifacts)
    (out / "count.json").write_text(json.dumps(count))
    return {"bytes": count}
