"""A flow that runs one stage, for the work pool that has the GPUs; `remote_stage.py` starts it."""

from collections.abc import Mapping
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.control import CONTROL
from flows.execute import RunSummary, final_state
from flows.executor import expect_success
from flows.remote_stage import FLOW
from flows.task_data import Call, TaskCalls
from flows.tasks import open_store, stage_task
from nanochat.config.compute import Compute
from nanochat.config.overrides import complete
from nanochat.errors import NotFound
from nanochat.stages import all_stages
from nanochat.store.manifest import Manifest
from nanochat.store.store import Store


@flow(name=FLOW, flow_run_name="{label}", persist_result=False, validate_parameters=False)
def stage_flow(
    stage: str,
    label: str,
    config: dict[str, Any],
    inputs: dict[str, list[dict[str, str]]],
    store: str,
    compute: dict[str, Any],
) -> State[Any]:
    """Runs one stage, or finds its artifact in the store. Other flow runs start this flow, with all parameters.

    Args:
        stage: Name of the stage.
        label: Name of the flow run.
        config: Complete config of the stage.
        inputs: Name → `stage` and `key` of each artifact.
        store: `file:///…` or `s3://bucket/prefix`, which this machine can reach.
        compute: How to run.
    """

    def work() -> RunSummary:
        known = all_stages()
        if stage not in known:
            raise NotFound(f"There is no stage `{stage}`.", hint=f"There are {', '.join(known)}.")
        chosen = known[stage]
        opened = open_store(store)
        manifests = {name: [_manifest(opened, each) for each in given] for name, given in inputs.items()}
        given = {name: found if chosen.inputs[name].many else found[0] for name, found in manifests.items()}
        try:
            call = Call(complete(chosen.config_type, config, "config"), label, given)
            how = complete(Compute, compute, "compute")
            state: State[Any] = stage_task(chosen, label)(
                stage=chosen, calls=TaskCalls([call]), upstream=[], store=store, compute=how,
                return_state=True,
            )  # fmt: skip
        except BaseException:
            CONTROL.get().stop.request("The run was stopped.")
            raise
        expect_success(label, state)
        return RunSummary(label, "Cached" if state.name == "Cached" else "")

    return final_state(work)


def _manifest(store: Store, reference: Mapping[str, str]) -> Manifest:
    manifest = store.find(reference["stage"], reference["key"])
    if manifest is None:
        raise NotFound(
            f"{reference['stage']}/{reference['key'][:8]} is not in {store.objects.root}.",
            hint="A pool on another machine needs a store that both can reach: `s3://…`.",
        )
    return manifest
