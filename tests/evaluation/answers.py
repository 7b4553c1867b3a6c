"""Examples for the tests of tables and comparisons: answers with a chosen probability of being right."""

from collections.abc import Sequence
from typing import Any

from nanochat.evaluation.examples import Example, prompt_hash


def answer(task: str, question: str, right: bool, **fields: Any) -> Example:
    """One answer of a four-choice task; `fields` replace what it holds."""
    prompt = fields.pop("prompt", f"{task}: {question}")
    values: dict[str, Any] = {
        "task": task,
        "question": question,
        "kind": "choice",
        "baseline": 0.25,
        "prompt": prompt,
        "prompt_sha256": prompt_hash(prompt),
        "gold": "A",
        "answer": "A" if right else "B",
        "right": right,
        "verdict": "right" if right else "wrong",
    }
    return Example(**(values | fields))


def answers(task: str, right: Sequence[bool], **fields: Any) -> list[Example]:
    """One answer to each question; the questions are `0`, `1`, …."""
    return [answer(task, str(number), bool(each), **fields) for number, each in enumerate(right)]
