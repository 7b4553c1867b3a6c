"""The flow that publishes a model for transformers: to a folder, a bucket or the Hugging Face Hub."""

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.execute import RunSummary, execute, final_state
from flows.request import parse_request
from nanochat import settings
from nanochat.config.export import ExportConfig
from nanochat.errors import BadConfig
from nanochat.execution.graph import Results
from nanochat.export.destination import copy_to, push_artifact
from nanochat.graphs import resolve
from nanochat.graphs.export import Exported, export_model


def publish_name() -> str:
    """`publish chat/latest`."""
    return f"publish {(flow_run.parameters or {}).get('model', '')}"


@flow(name="publish", flow_run_name=publish_name, persist_result=False, validate_parameters=False)
def publish_flow(
    model: str = "chat/latest",
    to: str = "",
    repository: str = "",
    dtype: Literal["fp32", "bf16"] = "fp32",
    alias: str = "",
    store: str = "",
) -> State[Any]:
    """Exports a model for transformers, and copies the files.

    Args:
        model: Alias, `stage/key` or beginning of a key.
        to: `file:///…` or `s3://bucket/prefix`; empty: no copy.
        repository: `org/name` on the Hugging Face Hub, with the worker's token (`HF_TOKEN`); empty: none.
        dtype: Dtype of the weights.
        alias: Alias for the exported model in the store; empty: none.
        store: `file:///…` or `s3://bucket/prefix`; empty takes `NANOCHAT_STORE`, or the home.
    """

    def work() -> RunSummary:
        request = parse_request("demo", None, None, store)
        if settings.is_relative_store(to):
            raise BadConfig(f"`to` is `{to}`, which depends on the folder of the worker.", hint="Write `file:///…`.")
        if dtype not in ("fp32", "bf16"):
            raise BadConfig(f"`dtype` is `{dtype}`.", hint="Write `fp32` or `bf16`.")
        found = resolve.model(request.store, model)

        def build() -> Exported:
            return export_model(ExportConfig(dtype=dtype), found, resolve.evaluations_of(request.store, found))

        def finish(graph: Exported, results: Results) -> RunSummary:
            exported = results[graph.export]
            if to:
                copy_to(exported, to)
            if repository:
                push_artifact(exported, repository)
            if alias:
                request.store.set_alias(alias, exported.manifest)
            places = " and ".join(place for place in (to, repository) if place) or "the store"
            return RunSummary(f"{model} {found.key[:8]} is in {places} for transformers")

        return execute(request, build, finish)

    return final_state(work)
