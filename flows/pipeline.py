"""The flow, with its form in the Prefect UI."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from flows.execute import Said, answered, asked, execute, title
from nanochat.config.compute import Compute
from nanochat.config.pipeline import PipelineConfig
from nanochat.graphs.pipeline import pipeline, publish_aliases
from nanochat.profiles import PROFILES, profile_files

ProfileName = Annotated[str, Field(json_schema_extra={"enum": [*PROFILES, *profile_files()]})]
"""The form lists built-in profiles, and the user's own as they are when `nanochat up` registers the deployments."""


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
