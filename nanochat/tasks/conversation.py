"""The parts of a task: conversations to train on, and questions to evaluate."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanochat.errors import BadSource

Split = Literal["train", "validation"]
Conversation = dict[str, Any]
"""`{"messages": [{"role": "system|user|assistant", "content": str | parts}]}`, a part being
`{"type": "text|python|python_output", "text": str}`. A message with `"learn": False` is not trained on."""
Question = dict[str, Any]
"""A line of `questions.jsonl`: task, kind (`choice` or `generate`), messages, letters (choice), answer, baseline. Some
also have `id` (else its number in the task), `form` (of the prompt), `subject`, and what their judge needs."""
NANOCHAT_FORM = "nanochat"
"""Form of a prompt that nanochat gives the same question, to the letter: only equal forms have comparable accuracies
(one model has 38.3% and 35.1% on MMLU in two forms)."""

PARTS = ("text", "python", "python_output")


def no_questions() -> Iterator[Question]:
    """For tasks without questions."""
    return iter(())


@dataclass(frozen=True)
class Task:
    """A source of conversations and questions. Each call yields them again, in the same order."""

    name: str
    conversations: Callable[[Split], Iterator[Conversation]]
    questions: Callable[[], Iterator[Question]] = no_questions
    problems: Callable[[], Iterator[Question]] = no_questions
    """Questions that may be trained on, by reinforcement learning; none of them is among `questions`."""


def exchange(question: str, answer: str | list[dict[str, str]]) -> Conversation:
    """A conversation of one question and one answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def choice_question(task: str, text: str, letters: Sequence[str], answer: str, **more: str) -> Question:
    """A question whose answer is one of `letters` (or other continuations); `text` contains the choices."""
    return {
        "task": task,
        "kind": "choice",
        "messages": [{"role": "user", "content": text}],
        "letters": list(letters),
        "answer": answer,
        "baseline": 1 / len(letters),
        **more,
    }


def open_question(task: str, text: str, answer: str, **more: str) -> Question:
    """A question whose answer is generated, and judged by the task."""
    return {
        "task": task,
        "kind": "generate",
        "messages": [{"role": "user", "content": text}],
        "answer": answer,
        "baseline": 0.0,
        **more,
    }


def text_in(value: Any, name: str, where: str) -> str:
    """The value of a row's field. Raises `BadSource`, naming `where` (file and row), if it is not a text."""
    if not isinstance(value, str):
        raise BadSource(
            f"{where} has no text in `{name}`.", hint="Set `source` to a dataset with the fields of the original one."
        )
    return value
