"""The `refresh` flow: trains a candidate on new shards, evaluates it beside the model in use, and promotes the better.

The candidate is promoted if it passes a gate on its mean centered accuracy.
"""

from dataclasses import dataclass
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.execute import RunSummary, execute, final_state
from flows.pages import link, put, table
from flows.pipeline import ProfileName, build_pipeline
from flows.request import RunRequest, parse_request, title
from nanochat.config.compute import Compute
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import NotFound
from nanochat.execution.graph import Results
from nanochat.graphs import resolve
from nanochat.graphs.continue_pretraining import continue_pretraining
from nanochat.graphs.evaluate import Evaluated, evaluate_chat_model
from nanochat.graphs.pipeline import Chat
from nanochat.store.artifacts import Model

PREVIOUS = "chat/previous"

Mode = Literal["retrain", "continue"]


@dataclass(frozen=True)
class Comparison:
    """A candidate, and the evaluation of the model in use on the same questions."""

    candidate: Chat
    in_use: Evaluated | None


@dataclass(frozen=True)
class Gate:
    """The conditions on which a candidate is promoted."""

    alias: str
    least_gain: float
    least_score: float

    def needed(self, score_in_use: float | None) -> float:
        """The least mean centered accuracy of a candidate."""
        return self.least_score if score_in_use is None else max(self.least_score, score_in_use + self.least_gain)


def refresh_name() -> str:
    """`refresh (retrain) · d4 · world`."""
    return f"refresh ({(flow_run.parameters or {}).get('mode', 'retrain')}) · {title()}"


@flow(name="refresh", flow_run_name=refresh_name, persist_result=False, validate_parameters=False)
def refresh_flow(
    mode: Mode = "retrain",
    alias: str = "chat/production",
    least_gain: float = 0.0,
    least_score: float = 0.0,
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """Trains a model on new shards, evaluates it beside the model in use, and promotes it if it is better.

    Args:
        mode: `retrain` trains from scratch on all shards; `continue` continues pretraining on the new shards.
        alias: Alias of the model in use. If the candidate passes, it moves, and `chat/previous` names the old model.
        least_gain: Required gain in mean centered accuracy over the model in use, on the same questions.
        least_score: Required mean centered accuracy in any case.
        profile: A named, complete config.
        config: Changed fields replace those of the profile.
        compute: How to run; changed fields replace those of the profile.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool for training and evaluation; empty: this process.
    """

    def work() -> RunSummary:
        request = parse_request(profile, config, compute, store, gpu_pool)
        in_use = resolve.model(request.store, alias) if alias in request.store.aliases() else None
        gate = Gate(alias, least_gain, least_score)

        def finish(graph: Comparison, results: Results) -> RunSummary:
            resolve.publish_aliases(request.store, graph.candidate, results)
            return _decide(request, gate, in_use, graph, results)

        try:
            return execute(request, lambda: _build(request, in_use, mode), finish)
        except resolve.NothingNew as nothing:
            return RunSummary(nothing.message, "Cached")

    return final_state(work)


def _build(request: RunRequest, in_use: Model | None, mode: Mode) -> Comparison:
    config = request.config
    if mode == "retrain":
        candidate = build_pipeline(request)
    elif in_use is None:
        raise NotFound("There is no model in use to continue from.", hint="Run it once with `mode: retrain`.")
    else:
        base = resolve.base_of(in_use)
        shards = resolve.unread_shards(base, resolve.shards(config.data, request.store))
        conversations = resolve.conversations(config.conversations)
        bundle = resolve.core_bundle(config.core_bundle)
        candidate = continue_pretraining(config, base, resolve.vocabulary_of(base), shards, conversations, bundle)
    if in_use is None:
        return Comparison(candidate, None)
    conversations = resolve.conversations(config.conversations)
    vocabulary = resolve.vocabulary_of(in_use)
    return Comparison(candidate, evaluate_chat_model(config, in_use, vocabulary, conversations, item="in use"))


def _decide(request: RunRequest, gate: Gate, in_use: Model | None, graph: Comparison, results: Results) -> RunSummary:
    """Moves the alias or not; the summary and a page give the reason."""
    chat = results[graph.candidate.chat]
    score = results[graph.candidate.chat_evaluation].metrics["centered_accuracy"]
    score_in_use = results[graph.in_use.evaluation].metrics["centered_accuracy"] if graph.in_use else None
    needed = gate.needed(score_in_use)
    is_same = in_use is not None and in_use.key == chat.key
    if is_same:
        summary = RunSummary(f"{gate.alias} is unchanged: there is no new data.", "Cached")
    elif score < needed:
        summary = RunSummary(
            f"{gate.alias} is unchanged: centered accuracy {score:.4f}, required {needed:.4f}.", "Held back"
        )
    else:
        if in_use is not None:
            request.store.set_alias(PREVIOUS, in_use.manifest)
        request.store.set_alias(gate.alias, chat.manifest)
        message = f"{gate.alias} is now {chat.key[:8]}: centered accuracy {score:.4f}, required {needed:.4f}."
        summary = RunSummary(message, "Promoted")
    rows = [["candidate", link(chat.stage, chat.key), f"{score:.4f}"]]
    if in_use is not None and score_in_use is not None:
        rows.append(["in use", link(in_use.stage, in_use.key), f"{score_in_use:.4f}"])
    models = table("model artifact accuracy", rows, len(rows))
    put("gate", f"# {summary.message}\n\n{models}\n\nBoth were evaluated on the same questions.", summary.message)
    return summary
