"""The scores of a chat model, computed from its answers.

`centered_accuracy` is the mean over all tasks of (accuracy - chance) / (1 - chance). `chatcore` is nanochat's number of
this kind, and has its name only if it is the same thing: its five tasks, in its form, answered as it does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nanochat.config.chat import ChatEvaluationConfig
from nanochat.evaluation.examples import Example, by_task
from nanochat.evaluation.tables import overall, tables
from nanochat.tasks.conversation import NANOCHAT_FORM, Question

CHATCORE = {"arc_easy": 0.25, "arc_challenge": 0.25, "mmlu": 0.25, "gsm8k": 0.0, "humaneval": 0.0}
"""The tasks of ChatCORE, and the accuracy of a guess that it assumes (a few rows of ARC have three or five choices)."""
CHATCORE_TOKENS = 512
PLAIN_FORM = "plain"


def scores(examples: Sequence[Example], forms: Mapping[str, str], config: ChatEvaluationConfig) -> dict[str, Any]:
    """The scores for `evaluation.json`; `forms` has the form of each task's prompts."""
    found = tables(examples, "centered_accuracy")
    answers = by_task(examples)
    for name, row in found["tasks"].items():
        row["form"] = forms[name]
        row["truncated"] = sum(example.truncated for example in answers[name])
    if is_chatcore(forms, config):
        chatcore = overall([example for name in CHATCORE for example in answers[name]], CHATCORE)
        found["chatcore"] = chatcore.value
        found["chatcore_interval"] = [chatcore.interval.low, chatcore.interval.high]
    return found


def is_chatcore(forms: Mapping[str, str], config: ChatEvaluationConfig) -> bool:
    """Whether the five tasks are there, with nanochat's prompts, and answered greedily in up to 512 tokens.

    Fewer questions than all are the same ones as there, as the tasks have them in its order.
    """
    same_prompts = all(forms.get(name) == NANOCHAT_FORM for name in CHATCORE)
    greedy = config.samples == 1 and not config.temperature and not config.stop
    return same_prompts and greedy and config.max_tokens == CHATCORE_TOKENS


def forms_of(questions: Mapping[str, Iterable[Question]]) -> dict[str, str]:
    """The form of each task's prompts: `nanochat`, or `plain` for the tasks of this project."""
    return {name: next(iter(some)).get("form", PLAIN_FORM) for name, some in questions.items()}
