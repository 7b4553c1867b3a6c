"""All tasks by name: what a mixture asks for, and who judges an answer."""

from __future__ import annotations

from nanochat.config.chat import MixtureItem
from nanochat.errors import BadConfig
from nanochat.tasks import arc, gsm8k, identity, mmlu, own_conversations, smoltalk, spelling, world
from nanochat.tasks.conversation import Question, Task
from nanochat.tasks.fields import Counts, FieldRules

GENERATED = ("world", "spelling", "identity")
"""Tasks that read no source."""
OF_ANY_FORM = ("smoltalk", "conversations")
"""Tasks whose rows are chat data, with fields that a user may want to be ignored."""


def load_task(item: MixtureItem, seed: int, counts: Counts | None = None) -> Task:
    """The task that the item names; nothing is read before its conversations or questions are asked for.

    What reading leaves out is added to `counts`.
    Raises `BadConfig` if the task needs a source and none is given, or if the item has a field that the task does not
    read; reading raises `BadSource` naming file and row, or `SourceUnreachable`.
    """
    if item.source and item.task in GENERATED:
        raise BadConfig(
            f"The task `{item.task}` is generated and reads no `source` (`{item.source}`).",
            hint="Conversations of your own are read by the task `conversations`.",
        )
    if item.ignore_fields and item.task not in OF_ANY_FORM:
        raise BadConfig(
            f"The task `{item.task}` has no `ignore_fields`.",
            hint=f"Only {' and '.join(f'`{name}`' for name in OF_ANY_FORM)} have.",
        )
    counts = Counts() if counts is None else counts
    rules = FieldRules(counts, item.ignore_fields)
    match item.task:
        case "world":
            return world.task(seed, item.limit)
        case "spelling":
            return spelling.task(seed, item.limit)
        case "identity":
            return identity.task(seed, item.limit)
        case "smoltalk":
            return smoltalk.task(item.source, rules)
        case "conversations":
            return own_conversations.task(item.source, rules)
        case "mmlu":
            return mmlu.task(item.source, counts)
        case "gsm8k":
            return gsm8k.task(item.source, counts)
        case "arc_easy" | "arc_challenge":
            return arc.task(item.task, item.source, counts)


JUDGES = {"world_answer": world.judge, "spelling": spelling.judge, "gsm8k": gsm8k.judge}


def judge(task_name: str, question: Question, completion: str) -> bool:
    """Whether a generated answer is right; `task_name` is that of the question, whose kind is `generate`."""
    return JUDGES[task_name](question, completion)
