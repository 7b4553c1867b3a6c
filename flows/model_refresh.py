"""The `refresh` flow: trains a candidate on new shards, evaluates it beside the model in use, and promotes the better.

The candidate is promoted if it passes the gate, which decides by bounds of its gain: `nanochat/evaluation/gate.py`.
"""

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.execute import RunSummary, execute, final_state
from flows.pages import link, put, table
from flows.pipeline import ProfileName, build_pipeline
from flows.request import RunRequest, parse_request, title
from nanochat.config.compute import Compute
from nanochat.config.evaluation import GateConfig
from nanochat.config.overrides import parse
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import NotFound
from nanochat.execution.graph import Results
from nanochat.graphs import resolve
from nanochat.graphs.compare import Candidate, gated
from nanochat.graphs.continue_pretraining import continue_pretraining
from nanochat.graphs.evaluate import evaluate_chat_model
from nanochat.store.artifacts import Model

PREVIOUS = "chat/previous"

Mode = Literal["retrain", "continue"]


def refresh_name() -> str:
    """`refresh (retrain) · d4 · world`."""
    return f"refresh ({(flow_run.parameters or {}).get('mode', 'retrain')}) · {title()}"


@flow(name="refresh", flow_run_name=refresh_name, persist_result=False, validate_parameters=False)
def refresh_flow(
    mode: Mode = "retrain",
    alias: str = "chat/production",
    least_gain: float = 0.0,
    least_score: float = 0.0,
    margin: float = 0.05,
    confidence: float = 0.95,
    per_task: bool = False,
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
        least_gain: Required gain in mean centered accuracy over the model in use, on the same questions. A candidate
            that is shown to gain less is held back.
        least_score: Required mean centered accuracy in any case.
        margin: The lower bound of the gain may be this much below `least_gain`; 0: the gain must be certain.
        confidence: Confidence of the bounds.
        per_task: Hold a candidate back that is shown to be worse on one of the tasks.
        profile: A named, complete config.
        config: Changed fields replace those of the profile.
        compute: How to run; changed fields replace those of the profile.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool for training and evaluation; empty: this process.
    """

    def work() -> RunSummary:
        request = parse_request(profile, config, compute, store, gpu_pool)
        in_use = resolve.model(request.store, alias) if alias in request.store.aliases() else None
        conditions = parse(
            GateConfig,
            {
                "least_gain": least_gain, "least_score": least_score, "margin": margin, "confidence": confidence,
                "per_task": per_task,
            },
        )  # fmt: skip

        def finish(graph: Candidate, results: Results) -> RunSummary:
            resolve.publish_aliases(request.store, graph.chat, results)
            return _decide(request, alias, in_use, graph, results)

        try:
            return execute(request, lambda: _build(request, conditions, in_use, mode), finish)
        except resolve.NothingNew as nothing:
            return RunSummary(nothing.message, "Cached")

    return final_state(work)


def _build(request: RunRequest, conditions: GateConfig, in_use: Model | None, mode: Mode) -> Candidate:
    config = request.config
    if mode == "retrain":
        candidate = build_pipeline(request)
    elif in_use is None:
        raise NotFound("There is no model in use to continue from.", hint="Run it once with `mode: retrain`.")
    else:
        base = resolve.base_of(in_use)
        shards = resolve.unread_shards(base, resolve.shards(config.data, request.store))
        conversations = resolve.conversations(config.conversations)
        bundle, problems = resolve.core_bundle(config.core_bundle), resolve.problems(config.problems)
        vocabulary, pairs = resolve.vocabulary_of(base), resolve.pairs(config.pairs)
        config = resolve.with_compared_models(config, request.store)
        candidate = continue_pretraining(config, base, vocabulary, shards, conversations, bundle, problems, pairs)
    if in_use is None:
        return gated(conditions, candidate, None)
    conversations = resolve.conversations(config.conversations)
    vocabulary = resolve.vocabulary_of(in_use)
    return gated(conditions, candidate, evaluate_chat_model(config, in_use, vocabulary, conversations, item="in use"))


def _decide(request: RunRequest, alias: str, in_use: Model | None, graph: Candidate, results: Results) -> RunSummary:
    """Moves the alias or not, as the gate has decided; the summary and a page give the reason."""
    chat, decision = results[graph.chat.chat], results[graph.decision]
    found = decision.metrics
    if in_use is not None and in_use.key == chat.key:
        summary = RunSummary(f"{alias} is unchanged: there is no new data.", "Cached")
    elif not found["passes"]:
        summary = RunSummary(f"{alias} is unchanged: {found['reason']}.", "Held back")
    else:
        if in_use is not None:
            request.store.set_alias(PREVIOUS, in_use.manifest)
        request.store.set_alias(alias, chat.manifest)
        summary = RunSummary(f"{alias} is now {chat.key[:8]}: {found['reason']}.", "Promoted")
    rows = [["candidate", link(chat.stage, chat.key), f"{found['score']:.4f}"]]
    if in_use is not None and "score_in_use" in found:
        rows.append(["in use", link(in_use.stage, in_use.key), f"{found['score_in_use']:.4f}"])
    models = table("model artifact mean_centered_accuracy", rows, len(rows))
    details = f"All tasks: {link(decision.stage, decision.key)}."
    if in_use is not None:
        details = f"{details} Both were evaluated on the same questions."
    put("gate", f"# {summary.message}\n\n{found['needed']}\n\n{models}\n\n{details}", summary.message)
    return summary
