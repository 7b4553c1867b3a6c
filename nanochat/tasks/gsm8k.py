"""GSM8K: grade-school word problems (arXiv:2110.14168), with sums as calls of the calculator.

The dataset writes a sum as `<<48/2=24>>`: it becomes a python part `48/2` and its output `24`. The answer follows
`####`.
"""

import re
from collections.abc import Iterator

from nanochat.errors import BadSource
from nanochat.tasks.conversation import Conversation, Question, Split, Task, exchange, open_question, text_in
from nanochat.tasks.fields import Counts
from nanochat.tasks.hub_rows import field, hub_rows

ID = "openai/gsm8k"
SPLITS: dict[Split, str] = {"train": "train", "validation": "test"}
_SUM = re.compile(r"<<([^<>=]*)=([^<>]*)>>")
_ANSWER = re.compile(r"####\s*(-?[\d.,]+)")


def task(source: str, counts: Counts) -> Task:
    def rows(split: str) -> Iterator[tuple[str, str, str]]:
        for where, row in hub_rows(source, ID, "main", split):
            question, answer = (text_in(field(row, name, where), name, where) for name in ("question", "answer"))
            if question.strip() and answer.strip():
                yield where, question, answer
            else:
                counts.skip("empty_answer" if question.strip() else "empty_question", where)

    def conversations(split: Split) -> Iterator[Conversation]:
        for _, question, answer in rows(SPLITS[split]):
            yield exchange(question, with_tool(answer))

    def questions() -> Iterator[Question]:
        for where, question, answer in rows("test"):
            found = _ANSWER.search(answer)
            if not found:
                raise BadSource(f"{where} has no answer after `####`.")
            yield open_question("gsm8k", question, found[1])

    return Task("gsm8k", conversations, questions)


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


def judge(question: Question, completion: str) -> bool:
    """Whether the number after `####` equals the reference answer."""
    found = _ANSWER.search(completion)
    return found is not None and _number(found[1]) == _number(question["answer"])


def _number(text: str) -> float | str:
    plain = text.replace(",", "").rstrip(".")
    try:
        return float(plain)
    except ValueError:
        return plain
