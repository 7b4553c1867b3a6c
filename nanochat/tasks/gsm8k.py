"""GSM8K: grade-school word problems (arXiv:2110.14168), with sums as calls of the calculator.

The dataset writes a sum as `<<48/2=24>>`: it becomes a python part `48/2` and its output `24`. The answer follows
`####`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nanochat.errors import BadSource
from nanochat.tasks.conversation import (
    NANOCHAT_FORM,
    Conversation,
    Question,
    Split,
    Task,
    exchange,
    open_question,
    text_in,
)
from nanochat.tasks.fields import Counts
from nanochat.tasks.hub_rows import field, hub_rows, shuffled
from nanochat.tasks.numbers import flexible_answer, numbers_in, strict_answer
from nanochat.tasks.verdict import Verdict

ID = "openai/gsm8k"
SPLITS: dict[Split, str] = {"train": "train", "validation": "test"}
_SUM = re.compile(r"<<([^<>=]*)=([^<>]*)>>")


def task(source: str, counts: Counts) -> Task:
    def texts_of(where: str, row: Mapping[str, Any]) -> tuple[str, str] | None:
        question, answer = (text_in(field(row, name, where), name, where) for name in ("question", "answer"))
        if question.strip() and answer.strip():
            return question, answer
        counts.skip("empty_answer" if question.strip() else "empty_question", where)
        return None

    def conversations(split: Split) -> Iterator[Conversation]:
        for where, row in hub_rows(source, ID, "main", SPLITS[split]):
            if texts := texts_of(where, row):
                yield exchange(texts[0], with_tool(texts[1]))

    def questions(split: Split) -> Iterator[Question]:
        for number, (where, row) in shuffled(hub_rows(source, ID, "main", SPLITS[split])):
            if texts := texts_of(where, row):
                answer = strict_answer(texts[1])
                if answer is None or flexible_answer(texts[1]) is None:
                    raise BadSource(f"{where} has no answer after `####`.")
                yield open_question("gsm8k", texts[0], answer, id=str(number), form=NANOCHAT_FORM)

    return Task("gsm8k", conversations, lambda: questions("validation"), lambda: questions("train"))


def with_tool(answer: str) -> list[dict[str, str]]:
    """The parts of a reference answer: text, and each sum as the tool's input and output."""
    parts = []
    end = 0
    for found in _SUM.finditer(answer):
        parts += [
            {"type": "text", "text": answer[end : found.start()]},
            {"type": "python", "text": found[1]},
            {"type": "python_output", "text": found[2]},
        ]
        end = found.end()
    parts.append({"type": "text", "text": answer[end:]})
    return [part for part in parts if part["text"]]


def judge(question: Question, completion: str) -> Verdict:
    """Strict: the first `#### N` has the characters of the reference, as in nanochat. Flexible: the last equals it."""
    given, expected = strict_answer(completion), question["answer"]
    flexible = flexible_answer(completion) == next(numbers_in(expected), None)
    return Verdict(given == expected, flexible, "no answer" if given is None else "")
