"""Sends a stage to the work pool where its resource is, and waits for it there without holding any."""

from __future__ import annotations

import time
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from nanochat.config import Compute, Config
from nanochat.errors import NotFound
from nanochat.progress import Progress
from nanochat.stages.stage import Inputs, Stage
from nanochat.store.artifacts import references

FLOW = "stage"
POLL_S = 1.0


def elsewhere(
    pool: str,
    stage: Stage,
    config: Config,
    inputs: Inputs,
    label: str,
    store: str,
    compute: Compute,
    progress: Progress,
) -> State[Any]:
    """Runs one stage in a pool, as a flow run below this one; returns the state in which it ended.

    Raises `NotFound` where no deployment serves the pool, and what `progress` raises, after it has cancelled the run.
    """
    parameters: dict[str, Any] = {
        "stage": stage.name,
        "label": label,
        "config": config.model_dump(mode="json"),
        "inputs": {
            name: [{"stage": reference.stage, "key": reference.key} for reference in references(given)]
            for name, given in inputs.items()
        },
        "store": store,
        "compute": compute.model_dump(mode="json"),
    }
    try:
        sent: Any = run_deployment(f"{FLOW}/{pool}", parameters=parameters, flow_run_name=label, timeout=0)
    except ObjectNotFound as error:
        raise NotFound(
            f"There is no deployment `{FLOW}/{pool}`, which would run `{label}`.",
            hint="`prefect deploy --all` makes those of `prefect.yaml`.",
        ) from error
    with get_client(sync_client=True) as client:
        try:
            while True:
                state = client.read_flow_run(sent.id).state
                if state is not None and state.is_final():
                    return state
                progress(0, 0, "", f"in the pool {pool}: {state.name if state else 'sent'}")
                time.sleep(POLL_S)
        except BaseException:
            client.set_flow_run_state(sent.id, Cancelling(message="The run that asked for it was told to end."))
            raise
