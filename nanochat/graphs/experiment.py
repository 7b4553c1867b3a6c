"""The graph of an experiment: its runs, with what they have in common made once, and their summary."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanochat.config.base import canonical_json
from nanochat.config.chat import ConversationsConfig
from nanochat.config.data import ShardConfig
from nanochat.config.evaluation import CoreBundleConfig
from nanochat.config.experiment import ChildRecord, ExperimentConfig, Metric, SummaryConfig
from nanochat.config.pipeline import PipelineConfig
from nanochat.config.preferences import PairsConfig
from nanochat.config.rl import ProblemsConfig
from nanochat.errors import BadConfig, NanochatError
from nanochat.execution.graph import AnyNode, Results, nodes
from nanochat.execution.stage import Node
from nanochat.experiments.children import CHAT_METRICS, Child
from nanochat.graphs.pipeline import pretrain_to_chat
from nanochat.graphs.shared import share
from nanochat.stages.experiment import summarize_experiment
from nanochat.store.artifacts import Evaluation, Model, Report


@dataclass(frozen=True)
class ChildSources:
    """What one run reads: resolved before the graph is built."""

    shards: Sequence[ShardConfig]
    conversations: ConversationsConfig
    bundle: CoreBundleConfig | None = None
    problems: ProblemsConfig | None = None
    pairs: PairsConfig | None = None


@dataclass(frozen=True)
class ChildGraph:
    """One run: its base model, and the evaluation that decides."""

    base: Node[Model]
    evaluation: Node[Evaluation]


@dataclass(frozen=True)
class Experiment:
    """The runs of an experiment, in the order of its children."""

    children: Sequence[ChildGraph]


@dataclass(frozen=True)
class Summary:
    """The table, the verdict and the page."""

    summary: Node[Report]


def experiment(children: Sequence[Child], sources: Sequence[ChildSources], metric: Metric) -> Experiment:
    """The runs, with one node for each stage that several of them need.

    Raises `BadConfig` if the metric is CORE and there are no tasks.
    """
    graphs = {child.name: _child(child.config, given, metric) for child, given in zip(children, sources, strict=True)}
    return Experiment(share(graphs))


def records(
    children: Sequence[Child],
    sources: Sequence[ChildSources],
    metric: Metric,
    graph: Experiment,
    failures: Mapping[AnyNode, NanochatError],
) -> tuple[ChildRecord, ...]:
    """The runs for the summary; one that failed has the error of its first stage that did."""
    found: list[ChildRecord] = []
    for child, given, of in zip(children, sources, graph.children, strict=True):
        problem = next((str(failures[node]) for node in nodes(of) if node in failures), "")
        found.append(
            ChildRecord(
                name=child.name, recipe=child.recipe, rung=child.rung, seed=child.seed, problem=problem,
                measured_on=_measured_on(child.config, given, metric), measured_until=_measured_until(child.config),
            )
        )  # fmt: skip
    return tuple(found)


def summary(
    experiment: ExperimentConfig, records: Sequence[ChildRecord], graph: Experiment, results: Results
) -> Summary:
    """The summary of the runs that have a result."""
    config = SummaryConfig(
        title=experiment.title, metric=experiment.metric, confidence=experiment.confidence, children=tuple(records)
    )
    ended = [of for record, of in zip(records, graph.children, strict=True) if not record.problem]
    models, evaluations = [results[of.base] for of in ended], [results[of.evaluation] for of in ended]
    return Summary(summarize_experiment(config, models=models, evaluations=evaluations))


def _child(config: PipelineConfig, sources: ChildSources, metric: Metric) -> ChildGraph:
    """The part of the pipeline that the metric needs."""
    whole = pretrain_to_chat(
        config, sources.shards, sources.conversations, sources.bundle, sources.problems, sources.pairs
    )
    if metric == "bits_per_byte":
        return ChildGraph(whole.base, whole.base_evaluation)
    if metric in CHAT_METRICS:
        return ChildGraph(whole.base, whole.chat_evaluation)
    if whole.core is None:
        raise BadConfig(
            f"The metric `{metric}` needs the tasks of CORE.", hint="Name their folder: `core_bundle.source`."
        )
    return ChildGraph(whole.base, whole.core.evaluation)


def _measured_on(config: PipelineConfig, sources: ChildSources, metric: Metric) -> str:
    """Equal for runs whose evaluations have the same text or questions, and the same rules."""
    if metric == "bits_per_byte":
        held_out = [shard.canonical() for shard in sources.shards if shard.validation != "none"]
        return _hash([held_out, config.base_evaluation.evaluation_tokens])
    if metric in CHAT_METRICS:
        questions = sources.conversations.canonical()["questions"]
        return _hash([questions, sources.conversations.seed, config.chat_evaluation.canonical()])
    return _hash([sources.bundle and sources.bundle.canonical(), config.core_evaluation.canonical()])


def _measured_until(config: PipelineConfig) -> str:
    """Equal for runs in which a number of tokens is the same text."""
    return _hash([config.tokenizer.canonical(), config.tokens.canonical(), config.rows.canonical()])


def _hash(parts: object) -> str:
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]
