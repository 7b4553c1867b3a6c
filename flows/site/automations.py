"""What the server does by itself: work pools, and an automation that tells somebody of failed runs.

Dead runs are found, and crashed ones started again, by `stale_runs.py`, which counts how often.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr

from flows.site import prefect_environment

WEBHOOK_BLOCK = "nanochat-webhook"
RETIRED = (
    "nanochat: a run without a sign of life has crashed",
    "nanochat: a crashed run is started again",
)
"""Of earlier versions: the second started runs again without counting, also those that nothing can start."""

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
        for name in RETIRED:
            for known in client.read_automations_by_name(name):
                client.delete_automation(known.id)
        if not prefect_environment.webhook():
            return False
        block = Webhook(method="POST", url=SecretStr(prefect_environment.webhook())).save(WEBHOOK_BLOCK, overwrite=True)
        _apply(client, _notify(CallWebhook(block_document_id=block, payload=_MESSAGE)))  # pyright: ignore[reportArgumentType]  # sync here
    return True


def _apply(client: SyncPrefectClient, automation: AutomationCore) -> None:
    known = client.read_automations_by_name(automation.name)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)


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
