"""Runs a stage in a work pool of another machine, and waits for it without using resources of this one."""

import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from nanochat.errors import NotFound, StageFailed, Stopped
from nanochat.execution.attempt import Attempt
from nanochat.store.artifacts import Artifact, references

FLOW = "stage"
POLL_S = 1.0


def produce_in_pool(pool: str, attempt: Attempt[Any], label: str) -> Artifact:
    """Runs one stage in a pool, as one child flow run per node; returns its artifact.

    A node that fails ends the others. Raises `NotFound` if no deployment serves the pool, `Stopped` or `StageFailed` if
    the flow run ended without an artifact, and errors of the attempt's sinks, after it has cancelled the flow runs.
    """
    state = _run_nodes(pool, attempt, label)
    if state.is_cancelled():
        raise Stopped(f"`{label}` was cancelled in the pool `{pool}`.")
    manifest = attempt.store.read(attempt.stage.name, attempt.key)
    if not state.is_completed() or manifest is None:
        raise StageFailed(f"`{label}` failed in the pool `{pool}`: {state.message or state.name}")
    return attempt.store.artifact(manifest, reused=False)


def _run_nodes(pool: str, attempt: Attempt[Any], label: str) -> State[Any]:
    """The state in which the first node ended, or another one failed."""
    parameters: dict[str, Any] = {
        "stage": attempt.stage.name,
        "label": label,
        "config": attempt.config.model_dump(mode="json"),
        "inputs": {
            name: [{"stage": reference.stage, "key": reference.key} for reference in references(given)]
            for name, given in attempt.inputs.items()
        },
        "store": attempt.store.objects.root,
    }
    parallelism = attempt.compute.parallelism
    try:
        sent: list[UUID] = []
        for node in range(parallelism.nodes):
            compute = attempt.compute.on_node(node, parallelism.rendezvous).model_dump(mode="json")
            name = f"{label} · node {node}" if node else label
            variables = attempt.compute.gpu_job.variables()
            sent.append(_send(f"{FLOW}/{pool}", name, {**parameters, "compute": compute}, variables))
    except ObjectNotFound as error:
        raise NotFound(
            f"There is no deployment `{FLOW}/{pool}`, which would run `{label}`.",
            hint="`prefect deploy --all` makes those of `prefect.yaml`.",
        ) from error
    with get_client(sync_client=True) as client:
        reason = "A stop of the run that started this was requested."
        try:
            while True:
                states = [client.read_flow_run(each).state for each in sent]
                failed = next((s for s in states if s is not None and s.is_final() and not s.is_completed()), None)
                if failed is not None:
                    reason = "Another node failed."
                    return failed
                if states[0] is not None and states[0].is_completed():
                    sent.clear()  # the other nodes find the published artifact, and end by themselves
                    return states[0]
                attempt.progress.log(f"in the pool {pool}: {states[0].name if states[0] else 'sent'}")
                time.sleep(POLL_S)
        finally:
            for each in sent:
                state = client.read_flow_run(each).state
                if state is None or not state.is_final():
                    client.set_flow_run_state(each, Cancelling(message=reason))


def _send(deployment: str, name: str, parameters: dict[str, Any], job_variables: dict[str, Any]) -> UUID:
    run: Any = run_deployment(
        deployment, parameters=parameters, flow_run_name=name, timeout=0, job_variables=job_variables
    )
    return run.id
