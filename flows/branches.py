"""Flows that begin at what is there: examine a model, tune a base model again, compare depths."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.execute import Said, answered, asked, execute, title
from flows.pipeline import ProfileName
from nanochat.config.compute import Compute
from nanochat.config.pipeline import PipelineConfig
from nanochat.console import headline
from nanochat.graphs import branches
from nanochat.store.artifacts import Artifact
from nanochat.store.store import Store


def evaluate_name() -> str:
    """`evaluate chat/latest`."""
    return f"evaluate {(flow_run.parameters or {}).get('model', '')}"


@flow(name="evaluate", flow_run_name=evaluate_name, persist_result=False, validate_parameters=False)
def evaluate_flow(
    model: str = "chat/latest",
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """Examines a model: bits per byte and samples of a base model, questions and answers of a chat model.

    Args:
        model: Alias, `stage/key` or beginning of a key.
        profile: Says what is asked: its base evaluation, conversations and chat evaluation.
        config: Instead of the profile's.
        compute: How to run, instead of the profile's way.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool that examines; empty: this run does so itself.
    """

    def work() -> Said:
        given = asked(profile, config, compute, store, gpu_pool)
        chosen = artifact(given.store, model)

        def closing(made: branches.Examined) -> Said:
            return Said(f"{model} {chosen.key[:8]}: {headline(made.evaluation.metrics)}")

        return execute(given, lambda run: branches.examine(run, given.config, chosen), closing)

    return answered(work)


def tune_name() -> str:
    """`sft of base/latest`."""
    return f"sft of {(flow_run.parameters or {}).get('base', '')}"


@flow(name="sft-only", flow_run_name=tune_name, persist_result=False, validate_parameters=False)
def tune_flow(
    base: str = "base/latest",
    alias: str = "chat/latest",
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """Makes a chat model of a base model that is there, and examines it.

    Args:
        base: Alias, `stage/key` or beginning of a key.
        alias: What to call the chat model; empty: nothing.
        profile: Says how: its conversations, fine-tuning and chat evaluation.
        config: Instead of the profile's.
        compute: How to run, instead of the profile's way.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool that trains and examines; empty: this run does so itself.
    """

    def work() -> Said:
        given = asked(profile, config, compute, store, gpu_pool)
        chosen = artifact(given.store, base)

        def closing(made: branches.Tuned) -> Said:
            if alias:
                given.store.set_alias(alias, made.chat.manifest)
            return Said(f"{alias or 'the model'} is {made.chat.key[:8]}: {headline(made.chat_evaluation.metrics)}")

        return execute(given, lambda run: branches.tune(run, given.config, chosen), closing)

    return answered(work)


def ladder_name() -> str:
    """`ladder d2, d4, d6 · world`."""
    depths = (flow_run.parameters or {}).get("depths", [])
    return f"ladder {', '.join(f'd{depth}' for depth in depths)} · {title().rpartition(' · ')[2]}"


@flow(name="ladder", flow_run_name=ladder_name, persist_result=False, validate_parameters=False)
def ladder_flow(
    depths: list[int],
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """The same text and recipe at several depths: bits per byte over compute, and the power law through them.

    Args:
        depths: Two or more, for example 2, 4 and 6.
        profile: A complete config with a name; its depth does not matter.
        config: Instead of the profile's.
        compute: How to run, instead of the profile's way.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool that trains and examines; empty: this run does so itself.
    """

    def work() -> Said:
        given = asked(profile, config, compute, store, gpu_pool)

        def closing(made: branches.Ladder) -> None:
            given.store.set_alias("ladder/latest", made.comparison.manifest)

        return execute(given, lambda run: branches.ladder(run, given.config, depths), closing)

    return answered(work)


def artifact(store: Store, reference: str) -> Artifact:
    """What an alias, `stage/key` or beginning of a key names; raises `NotFound`."""
    found = store.resolve(reference)
    store.find(found.stage, found.key)  # noted, so that no deletion takes it from under the run
    return store.artifact(found, reused=True)
