"""What the server does by itself: work pools, and automations that find dead runs, start them again, and tell somebody.

A run that shows no sign of life is marked *Crashed*; a crashed run is scheduled again, which costs little, because
finished stages are cached and training goes on from its checkpoint. What gets lost here, `overdue.py` catches up with.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr

from flows.overdue import DEAD_AFTER
from nanochat import settings

WEBHOOK_BLOCK = "nanochat-webhook"

_BEAT = "prefect.flow-run.heartbeat"
_ENDS = {
    f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Paused")
}
_ANY_RUN = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})


def make_pools(names: Sequence[str]) -> None:
    """Work pools of processes, as far as they are missing."""
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
            except ObjectAlreadyExists:
                continue


def apply_automations() -> bool:
    """Makes or renews ours; whether somebody is told."""
    with get_client(sync_client=True) as client:
        _apply(client, _crash_of_the_dead())
        _apply(client, _resume())
        if not settings.webhook():
            return False
        block = Webhook(method="POST", url=SecretStr(settings.webhook())).save(WEBHOOK_BLOCK, overwrite=True)
        _apply(client, _notify(CallWebhook(block_document_id=block, payload=_MESSAGE)))  # pyright: ignore[reportArgumentType]  # sync here
    return True


def _apply(client: SyncPrefectClient, automation: AutomationCore) -> None:
    known = client.read_automations_by_name(automation.name)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)


def _crash_of_the_dead() -> AutomationCore:
    return AutomationCore(
        name="nanochat: a run without a sign of life has crashed",
        description=f"No heartbeat for {DEAD_AFTER.total_seconds():.0f} s: its worker or machine is gone.",
        trigger=EventTrigger(
            after={_BEAT},
            expect={_BEAT, *_ENDS},
            match=_ANY_RUN,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=DEAD_AFTER,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message="No sign of life: its worker or machine is gone.",
                force=False,
            )
        ],
    )


def _resume() -> AutomationCore:
    return AutomationCore(
        name="nanochat: a crashed run is started again",
        description="Finished stages are cached; training goes on from its last checkpoint.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=_ANY_RUN,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name="AwaitingRetry",
                message="It crashed; it goes on where it was.",
                force=True,
            )
        ],
    )


_MESSAGE = """{
  "text": "{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message }} {{ flow_run|ui_url }}"
}"""


def _notify(action: CallWebhook) -> AutomationCore:
    return AutomationCore(
        name="nanochat: a failed or crashed run tells",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.Late"},
            match=_ANY_RUN,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[action],
    )
