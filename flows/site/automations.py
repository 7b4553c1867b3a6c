"""The automation that reports failed, crashed and late runs to a webhook."""

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from pydantic import SecretStr

from flows.site import prefect_environment

WEBHOOK_BLOCK = "nanochat-webhook"
NAME = "nanochat: report failed, crashed and late runs"
FORMER_NAME = "nanochat: a failed or crashed run tells"  # plain-words: ok
RETIRED = (
    "nanochat: a run without a sign of life has crashed",  # plain-words: ok
    "nanochat: a crashed run is started again",
)
"""Of earlier versions. The last one restarted runs without a limit; `stale_runs.py` replaces it."""

_MESSAGE = """{
  "text": "{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message }} {{ flow_run|ui_url }}"
}"""


def apply_automations() -> bool:
    """Creates or updates the automation; returns whether there is a webhook."""
    with get_client(sync_client=True) as client:
        for name in RETIRED:
            for known in client.read_automations_by_name(name):
                client.delete_automation(known.id)
        if not prefect_environment.webhook():
            return False
        block = Webhook(method="POST", url=SecretStr(prefect_environment.webhook())).save(WEBHOOK_BLOCK, overwrite=True)
        action = CallWebhook(block_document_id=block, payload=_MESSAGE)  # pyright: ignore[reportArgumentType]  # sync here
        automation = AutomationCore(
            name=NAME,
            trigger=EventTrigger(
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.Late"},
                match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[action],
        )
        known = [each for name in (NAME, FORMER_NAME) for each in client.read_automations_by_name(name)]
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)
        for each in known[1:]:
            client.delete_automation(each.id)
    return True
