"""SmolTalk: general conversations, the small selection (HuggingFaceTB/smol-smoltalk)."""

from __future__ import annotations

from collections.abc import Iterator

from nanochat.tasks.conversation import Conversation, Split, Task, checked
from nanochat.tasks.hub import hub_rows

ID = "HuggingFaceTB/smol-smoltalk"
SPLITS: dict[Split, str] = {"train": "train", "validation": "test"}


def task(source: str) -> Task:
    def conversations(split: Split) -> Iterator[Conversation]:
        for where, row in hub_rows(source, ID, None, SPLITS[split]):
            yield checked(row, where)

    return Task("smoltalk", conversations)
