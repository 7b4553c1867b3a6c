"""The graph, once: stages wired to stages. Who runs it is the `Run` that is passed in.

`PlainRun` executes it here, in process, with no Prefect; the Prefect flow passes a run that makes a task of each call;
`Plan` only asks the store what it has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

from nanochat.config.base import Config
from nanochat.config.compute import Compute
from nanochat.config.data import DataConfig, ShardConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.data.file_hashes import with_file_hashes
from nanochat.errors import NanochatError
from nanochat.events import Reporter, Sink, StopRequest
from nanochat.execution.stage import Stage
from nanochat.lineage.differences import StageCall
from nanochat.lineage.why import why_not_reused
from nanochat.scaling import derive_hyperparameters
from nanochat.sources.shard_list import list_shards
from nanochat.stages.card import data_card
from nanochat.stages.compare import compare
from nanochat.stages.conversations import converse
from nanochat.stages.download import download
from nanochat.stages.evaluate import evaluate_base, evaluate_chat
from nanochat.stages.pretrain import continue_pretrain, pretrain
from nanochat.stages.report import report
from nanochat.stages.rows import pack
from nanochat.stages.sft import sft
from nanochat.stages.tokenizer import train_tokenizer
from nanochat.stages.tokens import tokenize
from nanochat.store.artifacts import Artifact, references
from nanochat.store.store import Store

STAGES: tuple[Stage, ...] = (
    download, train_tokenizer, tokenize, pack, data_card, pretrain, evaluate_base, converse, sft, evaluate_chat, report,
    continue_pretrain, compare,
)  # fmt: skip

Handle = Any
"""What a run returns for a stage: an artifact, a future of one, or a plan's entry."""


@dataclass(frozen=True)
class Each:
    """Marks a list of handles of which each call of a mapped stage takes one."""

    handles: Sequence[Handle]


class Run(Protocol):
    """Executes stages; see the module's docstring."""

    def shards(self, data: DataConfig) -> tuple[ShardConfig, ...]:
        """The shards of a source, with what the store has pinned of it."""
        ...

    def __call__(self, stage: Stage, config: Config, **inputs: Handle | list[Handle]) -> Handle: ...

    def map(
        self, stage: Stage, configs: Sequence[Config], names: Sequence[str], **inputs: Each | Handle | list[Handle]
    ) -> list[Handle]:
        """One call a config; `Each` inputs are dealt out, others go whole to every call."""
        ...


class Handles:
    """What a graph returns: a dataclass of handles, and lists of them."""

    def each(self, change: Callable[[Handle], Handle]) -> Self:
        """The same with every handle changed: futures into artifacts, say."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}  # pyright: ignore[reportArgumentType]
        return type(self)(**{k: [change(h) for h in v] if isinstance(v, list) else change(v) for k, v in given.items()})


@dataclass(frozen=True)
class Text(Handles):
    """Raw text, and what training reads of it."""

    raw: list[Handle]
    vocabulary: Handle
    tokens: list[Handle]
    rows: list[Handle]
    data_card: Handle


@dataclass(frozen=True)
class Result(Text):
    """A handle per stage, in the order of the graph."""

    base: Handle
    base_evaluation: Handle
    conversations: Handle
    chat: Handle
    chat_evaluation: Handle
    report: Handle


def pipeline(run: Run, config: PipelineConfig) -> Result:
    """From raw text to a chat model and its report. Raises `BadConfig` at once if the arithmetic does not work out."""
    derive_hyperparameters(config.pretrain, config.tokenizer.vocab_size, config.rows.sequence_len)
    text = prepare(run, config, run.shards(config.data))
    base = run(pretrain, config.pretrain, vocabulary=text.vocabulary, rows=text.rows)
    return finish(run, config, text, base)


def prepare(run: Run, config: PipelineConfig, shards: Sequence[ShardConfig], vocabulary: Handle | None = None) -> Text:
    """From shards to packed rows and what they are like; learns a vocabulary unless there is one."""
    names = [shard.name for shard in shards]
    raw = run.map(download, shards, names)
    if vocabulary is None:
        vocabulary = run(train_tokenizer, config.tokenizer, raw=raw)
    tokens = run.map(tokenize, [config.tokens] * len(raw), names, raw=Each(raw), vocabulary=vocabulary)
    rows = run.map(pack, [config.rows] * len(raw), names, tokens=Each(tokens))
    return Text(raw, vocabulary, tokens, rows, run(data_card, config.data_card, raw=raw, tokens=tokens, rows=rows))


@dataclass(frozen=True)
class Gathered(Handles):
    """What comes from elsewhere."""

    raw: list[Handle]
    vocabulary: Handle
    conversations: Handle


def gather(run: Run, config: PipelineConfig, shards: Sequence[ShardConfig]) -> Gathered:
    """All that the network is needed for, and the vocabulary, in which conversations are kept."""
    raw = run.map(download, shards, [shard.name for shard in shards])
    vocabulary = run(train_tokenizer, config.tokenizer, raw=raw)
    return Gathered(raw, vocabulary, run(converse, with_file_hashes(config.conversations), vocabulary=vocabulary))


def finish(run: Run, config: PipelineConfig, text: Text, base: Handle) -> Result:
    """From a base model to the report."""
    conversations = run(converse, with_file_hashes(config.conversations), vocabulary=text.vocabulary)
    base_evaluation = run(evaluate_base, config.base_evaluation, model=base, rows=text.rows)
    chat = run(sft, config.sft, base=base, conversations=conversations)
    chat_evaluation = run(evaluate_chat, config.chat_evaluation, model=chat, conversations=conversations)
    made: dict[str, Any] = {
        "raw": text.raw, "vocabulary": text.vocabulary, "tokens": text.tokens, "rows": text.rows,
        "data_card": text.data_card, "base": base, "base_evaluation": base_evaluation,
        "conversations": conversations, "chat": chat, "chat_evaluation": chat_evaluation,
    }  # fmt: skip
    return Result(**made, report=run(report, config.report, **made))


def publish_aliases(store: Store, result: Result) -> None:
    """Moves `base/latest`, `chat/latest` and `report/latest` to what this run made or reused."""
    for alias, artifact in (
        ("base/latest", result.base),
        ("chat/latest", result.chat),
        ("report/latest", result.report),
    ):
        store.set_alias(alias, artifact.manifest)


def deal(position: int, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of one call of a mapped stage."""
    return {name: given.handles[position] if isinstance(given, Each) else given for name, given in inputs.items()}


@dataclass(frozen=True)
class PlainRun:
    """Executes the graph here: no Prefect, no server. Mapped stages run side by side on threads."""

    store: Store
    compute: Compute
    folder_root: Path
    sinks: tuple[Sink, ...] = ()

    def shards(self, data: DataConfig) -> tuple[ShardConfig, ...]:
        return list_shards(data, self.store)

    def __call__(self, stage: Stage, config: Config, **inputs: Handle | list[Handle]) -> Artifact:
        return self._run(stage, config, stage.name, inputs, self.compute, StopRequest())

    def map(
        self, stage: Stage, configs: Sequence[Config], names: Sequence[str], **inputs: Each | Handle | list[Handle]
    ) -> list[Artifact]:
        compute = self.compute.shared(len(configs))
        stop = StopRequest()  # one call has failed, or a person or a signal ends the run: the others end too
        with ThreadPoolExecutor(self.compute.data_workers.at_once(len(configs))) as pool:
            futures = [
                pool.submit(self._run, stage, config, f"{stage.name} {name}", deal(position, inputs), compute, stop)
                for position, (config, name) in enumerate(zip(configs, names, strict=True))
            ]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stop.request("The run was told to stop.")
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _run(
        self, stage: Stage, config: Config, label: str, inputs: dict[str, Any], compute: Compute, stop: StopRequest
    ) -> Artifact:
        started = time.monotonic()
        progress = Reporter(label, stage.name, (stop, *self.sinks))
        progress.emit("started")
        try:
            artifact = stage.run(
                config,
                inputs,
                store=self.store,
                compute=compute,
                progress=progress,
                folder_root=self.folder_root,
            )
        except NanochatError as error:
            if not stop.reason:
                progress.emit("failed", error=str(error))
            raise
        seconds = time.monotonic() - started
        progress.emit("finished", key=artifact.key, cached=artifact.reused, seconds=seconds, metrics=artifact.metrics)
        return artifact


@dataclass(frozen=True)
class Planned:
    """What would happen to one call of a stage."""

    label: str
    stage: Stage
    artifact: Artifact | None
    why: str


class Plan:
    """A run that computes nothing: it asks the store which calls it can answer, and says why the others would run."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.entries: list[Planned] = []

    def shards(self, data: DataConfig) -> tuple[ShardConfig, ...]:
        return list_shards(data, self.store, keep=False)

    def __call__(self, stage: Stage, config: Config, **inputs: Handle | list[Handle]) -> Planned:
        return self._plan(stage, config, stage.name, inputs)

    def map(
        self, stage: Stage, configs: Sequence[Config], names: Sequence[str], **inputs: Each | Handle | list[Handle]
    ) -> list[Planned]:
        calls = enumerate(zip(configs, names, strict=True))
        return [self._plan(stage, config, f"{stage.name} {name}", deal(i, inputs)) for i, (config, name) in calls]

    def _plan(self, stage: Stage, config: Config, label: str, inputs: dict[str, Any]) -> Planned:
        given: dict[str, list[Planned]] = {k: v if isinstance(v, list) else [v] for k, v in inputs.items()}
        missing = sorted({entry.stage.name for entries in given.values() for entry in entries if not entry.artifact})
        if missing:
            entry = Planned(label, stage, None, f"its input comes from {', '.join(missing)}, which would run")
        else:
            artifacts = {
                k: [e.artifact for e in v] if isinstance(inputs[k], list) else v[0].artifact for k, v in given.items()
            }
            found = stage.find(config, artifacts, self.store)  # pyright: ignore[reportArgumentType]  # none is missing
            why = "" if found else self._why(stage, config, artifacts)  # pyright: ignore[reportArgumentType]
            entry = Planned(label, stage, found, why)
        self.entries.append(entry)
        return entry

    def _why(self, stage: Stage, config: Config, inputs: Mapping[str, Artifact | list[Artifact]]) -> str:
        """What sets it apart from the nearest thing in the store, and where that began."""
        given = {name: references(each) for name, each in inputs.items()}
        return why_not_reused(self.store, StageCall(stage.name, stage.version, config.canonical(), given))


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"depth": 4}}` → `{"model.depth": 4}`."""
    result: dict[str, Any] = {}
    for name, value in config.items():
        result.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return result
