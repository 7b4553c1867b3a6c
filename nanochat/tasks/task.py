"""All tasks by name: what a mixture asks for, and who judges an answer."""

from __future__ import annotations

from nanochat.config import MixtureItem
from nanochat.tasks import arc, custom, gsm8k, identity, mmlu, smoltalk, spelling, world
from nanochat.tasks.conversation import Question, Task


def load_task(item: MixtureItem, seed: int) -> Task:
    """The task that the item names; nothing is read before its conversations or questions are asked for.

    Raises `BadConfig` if the task needs a source and none is given; reading raises `BadSource` naming file and row, or
    `SourceUnreachable`.
    """
    if item.task == "world":
        return world.task(seed, item.limit)
    if item.task == "spelling":
        return spelling.task(seed, item.limit)
    if item.task == "identity":
        return identity.task(seed, item.limit)
    if item.task == "smoltalk":
        return smoltalk.task(item.source)
    if item.task == "mmlu":
        return mmlu.task(item.source)
    if item.task == "gsm8k":
        return gsm8k.task(item.source)
    if item.task == "conversations":
        return custom.task(item.source)
    return arc.task(item.task, item.source)


JUDGES = {"world_answer": world.judge, "spelling": spelling.judge, "gsm8k": gsm8k.judge}


def judge(task_name: str, question: Question, completion: str) -> bool:
    """Whether a generated answer is right; `task_name` is that of the question, whose kind is `generate`."""
    return JUDGES[task_name](question, completion)
