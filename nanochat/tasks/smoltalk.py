"""SmolTalk: general conversations, the small selection (HuggingFaceTB/smol-smoltalk)."""

from collections.abc import Iterator

from nanochat.tasks.chat_rows import conversations_of
from nanochat.tasks.conversation import Conversation, Split, Task
from nanochat.tasks.fields import FieldRules
from nanochat.tasks.hub_rows import hub_rows

ID = "HuggingFaceTB/smol-smoltalk"
SPLITS: dict[Split, str] = {"train": "train", "validation": "test"}


def task(source: str, rules: FieldRules) -> Task:
    def conversations(split: Split) -> Iterator[Conversation]:
        return conversations_of(hub_rows(source, ID, None, SPLITS[split]), rules)

    return Task("smoltalk", conversations)
