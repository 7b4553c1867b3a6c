"""The flow of the pipeline, with its form in the Prefect UI."""

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from flows.execute import RunSummary, execute, final_state
from flows.request import RunRequest, parse_request, title
from nanochat.config.compute import Compute
from nanochat.config.pipeline import PipelineConfig
from nanochat.execution.graph import Results
from nanochat.graphs import resolve
from nanochat.graphs.pipeline import Chat, pretrain_to_chat
from nanochat.profiles import PROFILES, profile_files

ProfileName = Annotated[str, Field(json_schema_extra={"enum": [*PROFILES, *profile_files()]})]
"""The form lists built-in profiles, and the user's own as they are when `nanochat up` registers the deployments."""


def run_name() -> str:
    """`demo · d4 · world`."""
    return f"{(flow_run.parameters or {}).get('profile', 'demo')} · {title()}"


# `validate_parameters` would refuse wrong values as well, but with several lines of Prefect's own text.
@flow(name="nanochat", flow_run_name=run_name, persist_result=False, validate_parameters=False)
def nanochat_flow(
    profile: ProfileName = "demo",
    config: PipelineConfig | None = None,
    compute: Compute | None = None,
    store: str = "",
    gpu_pool: str = "",
) -> State[Any]:
    """From raw text to a chat model and its report: reuses the artifacts in the store, and computes the rest.

    Args:
        profile: A named, complete config.
        config: Every field of every stage; changed fields replace those of the profile.
        compute: How to run; changed fields replace those of the profile. Results do not depend on it.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
        gpu_pool: Work pool for stages that train or evaluate; this run then needs no GPU. Empty: this process.
    """

    def work() -> RunSummary:
        request = parse_request(profile, config, compute, store, gpu_pool)

        def finish(graph: Chat, results: Results) -> None:
            resolve.publish_aliases(request.store, graph, results)

        return execute(request, lambda: build_pipeline(request), finish)

    return final_state(work)


def build_pipeline(request: RunRequest) -> Chat:
    """Resolves the sources of a request, and builds the graph of the pipeline."""
    shards = resolve.shards(request.config.data, request.store)
    bundle = resolve.core_bundle(request.config.core_bundle)
    problems, pairs = resolve.problems(request.config.problems), resolve.pairs(request.config.pairs)
    conversations = resolve.conversations(request.config.conversations)
    config = resolve.with_compared_models(request.config, request.store)
    return pretrain_to_chat(config, shards, conversations, bundle, problems, pairs)
