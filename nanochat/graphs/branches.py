"""Graphs that begin at what is there: a model examined, a base tuned again, one that reads on, a family of depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.config.pipeline import PipelineConfig
from nanochat.config.training import PretrainConfig
from nanochat.data.file_hashes import with_file_hashes
from nanochat.errors import BadConfig, NotFound, WrongKind
from nanochat.graphs.pipeline import Each, Handle, Handles, Result, Run, Text, finish, prepare
from nanochat.lineage.ancestry import ancestors
from nanochat.stages.compare import compare
from nanochat.stages.conversations import converse
from nanochat.stages.evaluate import evaluate_base, evaluate_chat
from nanochat.stages.pretrain import continue_pretrain, pretrain
from nanochat.stages.sft import sft
from nanochat.store.artifacts import Artifact

BASES = ("pretrain", "continue_pretrain")


@dataclass(frozen=True)
class Tuned(Handles):
    """A chat model made of a base model."""

    conversations: Handle
    chat: Handle
    chat_evaluation: Handle


@dataclass(frozen=True)
class Ladder(Text):
    """Base models of several depths, and what they are worth."""

    bases: list[Handle]
    evaluations: list[Handle]
    comparison: Handle


@dataclass(frozen=True)
class Examined(Handles):
    """An examination of a model."""

    evaluation: Handle


def examine(run: Run, config: PipelineConfig, model: Artifact) -> Examined:
    """A base model on the held-out text it was made with, a chat model on the questions of the config."""
    if model.stage in BASES:
        rows = parents(model, "rows")
        return Examined(run(evaluate_base, config.base_evaluation, model=model, rows=rows))
    if model.stage != "sft":
        raise WrongKind(f"{model.stage}/{model.key[:8]} is no model: only base and chat models can be examined.")
    conversations = run(converse, with_file_hashes(config.conversations), vocabulary=vocabulary_of(model))
    return Examined(run(evaluate_chat, config.chat_evaluation, model=model, conversations=conversations))


def tune(run: Run, config: PipelineConfig, base: Artifact) -> Tuned:
    """Conversations, fine-tuning and examination, on a base model that is there."""
    if base.stage not in BASES:
        raise WrongKind(f"{base.stage}/{base.key[:8]} is no base model.")
    conversations = run(converse, with_file_hashes(config.conversations), vocabulary=vocabulary_of(base))
    chat = run(sft, config.sft, base=base, conversations=conversations)
    return Tuned(
        conversations, chat, run(evaluate_chat, config.chat_evaluation, model=chat, conversations=conversations)
    )


def read_on(run: Run, config: PipelineConfig, base: Artifact) -> Result:
    """A base model reads the shards that it has not seen, and all that follows is made again.

    Its vocabulary stays. Raises `NotFound` when no train shard is new.
    """
    known = [_text_of(each.config) for each in ancestors(base.store, base.manifest) if each.stage == "download"]
    listed = run.shards(config.data)
    new = [shard for shard in listed if _text_of(shard.canonical()) not in known]
    if not new:
        raise NotFound("There is no new shard: the model has read them all.", hint="Raise `data.train_shards`?")
    shards = [shard for shard in listed if shard in new or shard.validation != "none"]
    text = prepare(run, config, shards, vocabulary_of(base))
    more = run(continue_pretrain, config.pretrain, base=base, vocabulary=text.vocabulary, rows=text.rows)
    return finish(run, config, text, more)


def ladder(run: Run, config: PipelineConfig, depths: Sequence[int]) -> Ladder:
    """The same text and recipe at several depths, and a comparison."""
    if len(set(depths)) < 2 or len(set(depths)) < len(depths):
        raise BadConfig(f"A ladder takes two depths or more, each once, and not {list(depths)}.")
    text = prepare(run, config, run.shards(config.data))
    configs = [_with_depth(config, depth) for depth in depths]
    names = [f"d{depth}" for depth in depths]
    bases = run.map(pretrain, configs, names, vocabulary=text.vocabulary, rows=text.rows)
    examinations = [config.base_evaluation] * len(depths)
    evaluations = run.map(evaluate_base, examinations, names, model=Each(bases), rows=text.rows)
    comparison = run(compare, config.report, bases=bases, evaluations=evaluations)
    return Ladder(text.raw, text.vocabulary, text.tokens, text.rows, text.data_card, bases, evaluations, comparison)


def vocabulary_of(model: Artifact) -> Artifact:
    """What a base or chat model speaks."""
    if model.stage in BASES:
        return parents(model, "vocabulary")[0]
    return vocabulary_of(parents(model, "base")[0])


def parents(artifact: Artifact, name: str) -> list[Artifact]:
    """What it was given under a name; raises `NotFound` when that has left the store."""
    found: list[Artifact] = []
    for reference in artifact.manifest.inputs[name]:
        manifest = artifact.store.find(reference.stage, reference.key)
        if manifest is None:
            raise NotFound(
                f"{artifact.stage}/{artifact.key[:8]} was made with {reference.stage}/{reference.key[:8]}, "
                "which is not in the store any more.",
                hint="`nanochat run` with its settings makes it again.",
            )
        found.append(artifact.store.artifact(manifest, reused=True))
    return found


def _text_of(shard: Mapping[str, Any]) -> dict[str, Any]:
    """What says which text a shard is: its config without its part in the split."""
    return {name: value for name, value in shard.items() if not name.startswith("validation")}


def _with_depth(config: PipelineConfig, depth: int) -> PretrainConfig:
    model = config.pretrain.model.model_copy(update={"depth": depth})
    return PretrainConfig.model_validate({**config.pretrain.model_dump(), "model": model.model_dump()})
