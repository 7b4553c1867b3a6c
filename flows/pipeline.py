"""The flow, with its form in the Prefect UI."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.execute import Said, answered, asked, execute, title
from nanochat.config.compute import Compute
from nanochat.config.pipeline import PipelineConfig
from nanochat.graphs.pipeline import pipeline, publish_aliases

ProfileName = Literal["demo", "cpu", "d12", "speedrun"]


def run_name() -> str:
    """`demo · d4 · world`."""
    return f"{(flow_run.parameters or {}).get('profile', 'demo')} · {title()}"


# Prefect would refuse wrong values too, in several lines of its own words.
@flow(name="nanochat", flow_run_name=run_name, persist_result=False, validate_parameters=False)
def nanochat_flow(
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """From raw text to a chat model and its report: what the store has is reused, the rest is computed.

    Args:
        profile: A complete config with a name.
        config: Every field of every stage. Changed here, it counts instead of the profile's.
        compute: How to run, instead of the profile's way; no result depends on it.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool that trains and examines, while this run holds no GPU; empty: it does so itself.
    """

    def work() -> Said:
        given = asked(profile, config, compute, store, gpu_pool)
        return execute(given, lambda run: pipeline(run, given.config), lambda made: publish_aliases(given.store, made))

    return answered(work)
