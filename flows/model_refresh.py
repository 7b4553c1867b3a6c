"""A scheduled refresh of the model in use: train on new data, compare with it, and promote the better model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.branches import artifact
from flows.execute import Asked, Said, answered, asked, execute, title
from flows.pages import link, put, table
from flows.pipeline import ProfileName
from flows.submit import PrefectRun
from nanochat.config.compute import Compute
from nanochat.config.pipeline import PipelineConfig
from nanochat.errors import NotFound
from nanochat.graphs import branches
from nanochat.graphs.pipeline import Handle, Handles, Result, pipeline, publish_aliases, with_file_hashes
from nanochat.stages.conversations import converse
from nanochat.stages.evaluate import evaluate_chat
from nanochat.store.artifacts import Artifact

PREVIOUS = "chat/previous"


@dataclass(frozen=True)
class Contest(Handles):
    """A candidate, and the evaluation of the model in use on the same questions."""

    candidate: Result
    champion_evaluation: Handle | None

    def each(self, change: Any) -> Contest:
        evaluation = change(self.champion_evaluation) if self.champion_evaluation is not None else None
        return Contest(self.candidate.each(change), evaluation)


def refresh_name() -> str:
    """`refresh (retrain) · d4 · world`."""
    return f"refresh ({(flow_run.parameters or {}).get('mode', 'retrain')}) · {title()}"


@flow(name="refresh", flow_run_name=refresh_name, persist_result=False, validate_parameters=False)
def refresh_flow(
    mode: Literal["retrain", "continue"] = "retrain",
    alias: str = "chat/production",
    least_gain: float = 0.0,
    least_score: float = 0.0,
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """Tokenizes new shards, trains a model on them, compares it with the model in use, and promotes the better one.

    Args:
        mode: `retrain`: from scratch, on all shards. `continue`: continue pretraining the base model on new ones.
        alias: Names the model in use; it moves when the new model passes. `chat/previous` then names the old one.
        least_gain: Required gain in ChatCORE over the model in use, on the same questions.
        least_score: Required ChatCORE in any case.
        profile: A complete config with a name.
        config: Instead of the profile's.
        compute: How to run, instead of the profile's settings.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool for training and evaluation; empty: this run does both itself.
    """

    def work() -> Said:
        given = asked(profile, config, compute, store, gpu_pool)
        champion = artifact(given.store, alias) if alias in given.store.aliases() else None
        try:
            return execute(
                given,
                lambda run: _contest(run, given, champion, mode),
                lambda made: _decide(given, champion, made, alias, least_gain, least_score),
            )
        except NothingNew as nothing:
            return Said(nothing.message, "Cached")

    return answered(work)


class NothingNew(NotFound):
    """The model in use was trained on all shards."""


def _contest(run: PrefectRun, given: Asked, champion: Artifact | None, mode: str) -> Contest:
    if mode == "continue" and champion is None:
        raise NotFound("There is no model in use to continue from.", hint="Run it once with `mode: retrain`.")
    if mode == "continue" and champion is not None:
        (base,) = branches.parents(champion, "base")
        try:
            candidate = branches.read_on(run, given.config, base)
        except NotFound as error:
            raise NothingNew(error.message) from error
    else:
        candidate = pipeline(run, given.config)
    if champion is None:
        return Contest(candidate, None)
    vocabulary = branches.vocabulary_of(champion)
    (questions,) = run.map(converse, [with_file_hashes(given.config.conversations)], ["in use"], vocabulary=vocabulary)
    (evaluation,) = run.map(
        evaluate_chat, [given.config.chat_evaluation], ["in use"], model=champion, conversations=questions
    )
    return Contest(candidate, evaluation)


def _decide(
    given: Asked, champion: Artifact | None, made: Contest, alias: str, least_gain: float, least_score: float
) -> Said:
    """Moves the alias or leaves it, and publishes a page with the reason."""
    publish_aliases(given.store, made.candidate)
    chat, scored = made.candidate.chat, made.candidate.chat_evaluation.metrics["chatcore"]
    before = made.champion_evaluation.metrics["chatcore"] if made.champion_evaluation is not None else None
    needed = max(least_score, before + least_gain) if before is not None else least_score
    same = champion is not None and champion.key == chat.key
    passes = not same and scored >= needed
    if passes:
        if champion is not None:
            given.store.set_alias(PREVIOUS, champion.manifest)
        given.store.set_alias(alias, chat.manifest)
    said = (
        Said(f"{alias} is unchanged: there is no new data.", "Cached")
        if same
        else Said(f"{alias} is now {chat.key[:8]}: ChatCORE {scored:.4f}, required {needed:.4f}.", "Promoted")
        if passes
        else Said(f"{alias} is unchanged: ChatCORE {scored:.4f}, required {needed:.4f}.", "Held back")
    )
    rows = [["candidate", link(chat.stage, chat.key), f"{scored:.4f}"]]
    if champion is not None and before is not None:
        rows.append(["in use", link(champion.stage, champion.key), f"{before:.4f}"])
    scores = table("model artifact ChatCORE", rows, len(rows))
    page = f"# {said.message}\n\n{scores}\n\nBoth models answered the same questions."
    put("gate", page, said.message)
    return said
