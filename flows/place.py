"""Sends a stage to the work pool where its resource is, and waits for it there without holding any."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from nanochat.config.base import Config
from nanochat.config.compute import Compute
from nanochat.errors import NotFound
from nanochat.events import Reporter
from nanochat.execution.stage import Inputs, Stage
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
    progress: Reporter,
) -> State[Any]:
    """Runs one stage in a pool, as flow runs below this one, one a node; returns the state in which the first ended.

    A node that fails takes the others along. Raises `NotFound` where no deployment serves the pool, and what `progress`
    raises, after it has cancelled the runs.
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
    }
    nodes = {label if node == 0 else f"{label} · node {node}": node for node in range(compute.parallelism.nodes)}
    try:
        sent = [
            _sent(f"{FLOW}/{pool}", name, {**parameters, "compute": _as_node(compute, node)})
            for name, node in nodes.items()
        ]
    except ObjectNotFound as error:
        raise NotFound(
            f"There is no deployment `{FLOW}/{pool}`, which would run `{label}`.",
            hint="`prefect deploy --all` makes those of `prefect.yaml`.",
        ) from error
    with get_client(sync_client=True) as client:
        reason = "The run that asked for it was told to end."
        try:
            while True:
                states = [client.read_flow_run(each).state for each in sent]
                failed = next((s for s in states if s is not None and s.is_final() and not s.is_completed()), None)
                if failed is not None:
                    reason = "Another node of it failed."
                    return failed
                if states[0] is not None and states[0].is_completed():
                    sent.clear()  # the others find what it has published, and end by themselves
                    return states[0]
                progress.log(f"in the pool {pool}: {states[0].name if states[0] else 'sent'}")
                time.sleep(POLL_S)
        finally:
            for each in sent:
                state = client.read_flow_run(each).state
                if state is None or not state.is_final():
                    client.set_flow_run_state(each, Cancelling(message=reason))


def _sent(deployment: str, name: str, parameters: dict[str, Any]) -> UUID:
    run: Any = run_deployment(deployment, parameters=parameters, flow_run_name=name, timeout=0)
    return run.id


def _as_node(compute: Compute, node: int) -> dict[str, Any]:
    return compute.on_node(node, compute.parallelism.rendezvous).model_dump(mode="json")
