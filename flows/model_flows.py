"""Flows that start from models in the store: evaluate, compare, fine-tune."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.execute import RunSummary, execute, final_state
from flows.pipeline import ProfileName
from flows.request import parse_request
from nanochat.config.compute import Compute
from nanochat.config.pipeline import PipelineConfig
from nanochat.console import headline
from nanochat.execution.graph import Results
from nanochat.execution.stage import Node
from nanochat.graphs import resolve
from nanochat.graphs.compare import Compared, compare_models
from nanochat.graphs.evaluate import Evaluations, evaluate_any_model
from nanochat.graphs.fine_tune import FineTuned, fine_tune


def evaluate_name() -> str:
    """`evaluate chat/latest`."""
    return f"evaluate {(flow_run.parameters or {}).get('model', '')}"


@flow(name="evaluate", flow_run_name=evaluate_name, persist_result=False, validate_parameters=False)
def evaluate_flow(
    model: str = "chat/latest",
    tasks: list[str] | None = None,
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """Evaluates a model: bits per byte, CORE, questions and answers of a chat model. Also models of Hugging Face.

    Args:
        model: Alias, `stage/key` or beginning of a key; or a folder, a GGUF file, or `hf://org/name[@revision]`.
        tasks: Some of `base`, `core`, `chat`, and `text` (bits per byte of `data.source`); none: what suits the model.
        profile: Provides the evaluations, their sources, and the conversations.
        config: Changed fields replace those of the profile.
        compute: How to run; changed fields replace those of the profile.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool for the evaluation; empty: this process.
    """

    def work() -> RunSummary:
        request = parse_request(profile, config, compute, store, gpu_pool)

        def build() -> Evaluations:
            found = resolve.any_model(request.store, model, request.config.foreign)
            sources = resolve.evaluation_sources(request.store, request.config, found, tasks or ())
            return evaluate_any_model(request.config, found, sources)

        def finish(graph: Evaluations, results: Results) -> RunSummary:
            scores = [headline(results[node].metrics) for node in graph.evaluations]
            key = results[graph.model].key if isinstance(graph.model, Node) else graph.model.key
            return RunSummary(f"{model} {key[:8]}: {', '.join(filter(None, scores))}")

        return execute(request, build, finish)

    return final_state(work)


def compare_name() -> str:
    """`compare chat/production, chat/latest`."""
    return f"compare {', '.join((flow_run.parameters or {}).get('models', []))}"


@flow(name="compare", flow_run_name=compare_name, persist_result=False, validate_parameters=False)
def compare_flow(models: list[str], confidence: float = 0.95, store: str = "") -> State[Any]:
    """Compares models on the questions of their newest evaluations: better, worse, or cannot tell.

    Args:
        models: Two or more aliases, models or evaluations; the others are compared with the first one.
        confidence: Confidence of the intervals and verdicts.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
    """

    def work() -> RunSummary:
        request = parse_request("demo", None, None, store)

        def build() -> Compared:
            return compare_models(*resolve.comparison(request.store, models, confidence))

        def finish(graph: Compared, results: Results) -> RunSummary:
            return RunSummary(results[graph.comparison].metrics["verdict"])

        return execute(request, build, finish)

    return final_state(work)


def fine_tune_name() -> str:
    """`fine-tune base/latest`."""
    return f"fine-tune {(flow_run.parameters or {}).get('base', '')}"


@flow(name="fine-tune", flow_run_name=fine_tune_name, persist_result=False, validate_parameters=False)
def fine_tune_flow(
    base: str = "base/latest",
    alias: str = "chat/latest",
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """Fine-tunes a base model to a chat model, and evaluates it.

    Args:
        base: Alias, `stage/key` or beginning of a key.
        alias: Alias for the chat model; empty: none.
        profile: Provides the conversations, the fine-tuning and the chat evaluation.
        config: Changed fields replace those of the profile.
        compute: How to run; changed fields replace those of the profile.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool for training and evaluation; empty: this process.
    """

    def work() -> RunSummary:
        request = parse_request(profile, config, compute, store, gpu_pool)
        found = resolve.base_model(request.store, base)

        def build() -> FineTuned:
            conversations = resolve.conversations(request.config.conversations)
            return fine_tune(request.config, found, resolve.vocabulary_of(found), conversations)

        def finish(graph: FineTuned, results: Results) -> RunSummary:
            chat = results[graph.chat]
            if alias:
                request.store.set_alias(alias, chat.manifest)
            score = headline(results[graph.chat_evaluation].metrics)
            return RunSummary(f"{alias or 'the model'} is {chat.key[:8]}: {score}")

        return execute(request, build, finish)

    return final_state(work)


sft_only_flow = fine_tune_flow.with_options(name="sft-only")
"""The former name of `fine-tune`; it will be removed in the next release."""
