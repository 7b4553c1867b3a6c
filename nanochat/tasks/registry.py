"""All tasks by name, and the judges of generated answers."""

from collections.abc import Callable, Sequence

from nanochat.config.chat import MixtureItem
from nanochat.config.rl import RLTask
from nanochat.errors import BadConfig
from nanochat.tasks import (
    arc,
    everyday,
    gsm8k,
    humaneval,
    identity,
    mmlu,
    own_conversations,
    own_problems,
    smoltalk,
    spelling,
    spelling_bee,
    sums,
    world,
)
from nanochat.tasks.conversation import Question, Task
from nanochat.tasks.fields import Counts, FieldRules
from nanochat.tasks.verdict import Verdict
from nanochat.tools.sandbox.sandbox import shared_sandbox

GENERATED = ("world", "everyday", "sums", "spelling", "identity")
"""Tasks without a source."""
CHAT_DATA = ("smoltalk", "conversations")
"""Tasks whose rows are chat data, with fields that a user may ignore."""


def load_task(item: MixtureItem, seed: int, counts: Counts | None = None) -> Task:
    """The task of an item; nothing is read before its conversations or questions are iterated.

    Skipped and ignored data is added to `counts`. Raises `BadConfig` if a required source is missing, or if the item
    has a field that the task does not use; reading raises `BadSource`, naming file and row, or `SourceUnreachable`.
    """
    if item.source and item.task in GENERATED:
        raise BadConfig(
            f"The task `{item.task}` is generated and reads no `source` (`{item.source}`).",
            hint="Use the task `conversations` to read your own conversations.",
        )
    if item.ignore_fields and item.task not in CHAT_DATA:
        raise BadConfig(
            f"The task `{item.task}` has no `ignore_fields`.",
            hint=f"Only {' and '.join(f'`{name}`' for name in CHAT_DATA)} have.",
        )
    counts = Counts() if counts is None else counts
    rules = FieldRules(counts, item.ignore_fields)
    match item.task:
        case "world":
            return world.task(seed, item.limit)
        case "everyday":
            return everyday.task(seed, item.limit)
        case "sums":
            return sums.task(seed, item.limit)
        case "spelling":
            return spelling.task(seed, item.limit)
        case "spelling_bee":
            return spelling_bee.task(seed, item.source, item.limit)
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
        case "humaneval":
            return humaneval.task(item.source, counts)


def load_rl_task(item: RLTask, seed: int, counts: Counts | None = None) -> Task:
    """Like `load_task`, for a task of reinforcement learning, which may also be the user's own problems."""
    if item.task == "problems":
        return own_problems.task(item.source)
    return load_task(MixtureItem(task=item.task, source=item.source, limit=item.limit), seed, counts)


JUDGES = {
    "world_answer": world.judge,
    **dict.fromkeys(everyday.QUESTION_TASKS, everyday.judge),
    "sums": sums.judge,
    "problems": own_problems.judge,
    "spelling": spelling.judge,
    "spelling_bee": spelling_bee.judge,
    "gsm8k": gsm8k.judge,
}


def judge_all(answers: Sequence[tuple[Question, str]], report: Callable[[int], None] | None = None) -> list[Verdict]:
    """Judges generated answers to questions of one task; programs run several at a time.

    `report` receives the number of programs that have run.
    Raises `SandboxFailed` if there are programs and the sandbox does not work.
    """
    if not answers:
        return []
    task = answers[0][0]["task"]
    if task == "humaneval":
        return humaneval.judge_programs(answers, report=report)
    judge = JUDGES[task]
    return [judge(question, completion) for question, completion in answers]


def facts_of_judging(task: str) -> dict[str, str]:
    """What results of a task must state about how they were judged: `sandbox`, the confinement of programs."""
    return {"sandbox": shared_sandbox().mode} if task == "humaneval" else {}
