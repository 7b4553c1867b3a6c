"""The scores of a chat model, computed from its answers.

`centered_accuracy` is the mean over all tasks of (accuracy - chance) / (1 - chance). `chatcore` is nanochat's number of
this kind, and has its name only if it is the same thing: its five tasks, in its form, answered as it does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nanochat.config.chat import ChatEvaluationConfig
from nanochat.evaluation.examples import Example, by_task
from nanochat.tasks.conversation import NANOCHAT_FORM, Question

CHATCORE = {"arc_easy": 0.25, "arc_challenge": 0.25, "mmlu": 0.25, "gsm8k": 0.0, "humaneval": 0.0}
"""The tasks of ChatCORE, and what it takes for the accuracy of a guess (some rows of ARC have three or five choices)."""
CHATCORE_TOKENS = 512


def scores(
    examples: Sequence[Example], forms: Mapping[str, str], config: ChatEvaluationConfig
) -> dict[str, Any]:
    """What `evaluation.json` has of the examples; `forms` has the form of each task's prompts."""
    tasks = by_task(examples)
    rows = {name: _row(answers, forms[name]) for name, answers in tasks.items()}
    found = {"tasks": rows, "centered_accuracy": _centered(rows, {n: row["baseline"] for n, row in rows.items()})}
    if is_chatcore(forms, config):
        found["chatcore"] = _centered(rows, CHATCORE)
    return found


def is_chatcore(forms: Mapping[str, str], config: ChatEvaluationConfig) -> bool:
    """Whether the five tasks are there, with nanochat's prompts, and answered greedily in up to 512 tokens."""
    same_prompts = all(forms.get(name) == NANOCHAT_FORM for name in CHATCORE)
    greedy = config.samples == 1 and not config.temperature and not config.stop
    return same_prompts and greedy and config.max_tokens == CHATCORE_TOKENS


def forms_of(questions: Mapping[str, Iterable[Question]]) -> dict[str, str]:
    """The form of each task's prompts: `nanochat`, or `plain` for the tasks of this project."""
    return {name: next(iter(some)).get("form", "plain") for name, some in questions.items()}


def _row(examples: Sequence[Example], form: str) -> dict[str, Any]:
    count = len(examples)
    row = {
        "kind": examples[0].kind,
        "form": form,
        "accuracy": sum(example.right for example in examples) / count,
        "baseline": sum(example.baseline for example in examples) / count,
        "questions": len({example.question for example in examples}),
        "truncated": sum(example.truncated for example in examples),
    }
    flexible = [example.right_flexible for example in examples if example.right_flexible is not None]
    return row | ({"flexible_accuracy": sum(flexible) / count} if flexible else {})


def _centered(rows: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, float]) -> float:
    return sum((rows[name]["accuracy"] - b) / (1 - b) for name, b in baselines.items()) / len(baselines)
