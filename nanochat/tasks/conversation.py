"""What tasks are made of: conversations to learn from, questions to be examined on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanochat.errors import BadSource

Split = Literal["train", "validation"]
Conversation = dict[str, Any]
"""`{"messages": [{"role": "system|user|assistant", "content": str | parts}]}`, a part being
`{"type": "text|python|python_output", "text": str}`."""
Question = dict[str, Any]
"""A line of `questions.jsonl`: task, kind (`choice` or `generate`), messages, letters (choice), answer, baseline."""

PARTS = ("text", "python", "python_output")


def no_questions() -> Iterator[Question]:
    """For tasks on which nobody can be examined."""
    return iter(())


@dataclass(frozen=True)
class Task:
    """Where conversations and questions come from; both are made anew, in the same order, at each call."""

    name: str
    conversations: Callable[[Split], Iterator[Conversation]]
    questions: Callable[[], Iterator[Question]] = no_questions


def exchange(asked: str, answer: str | list[dict[str, str]]) -> Conversation:
    """A conversation of one question and one answer."""
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def choice_question(task: str, text: str, letters: Sequence[str], answer: str) -> Question:
    """A question whose answer is one of the `letters` (or other short continuations); `text` holds the choices."""
    return {
        "task": task,
        "kind": "choice",
        "messages": [{"role": "user", "content": text}],
        "letters": list(letters),
        "answer": answer,
        "baseline": 1 / len(letters),
    }


def open_question(task: str, text: str, answer: str) -> Question:
    """A question whose answer is generated, and judged by the task."""
    return {
        "task": task,
        "kind": "generate",
        "messages": [{"role": "user", "content": text}],
        "answer": answer,
        "baseline": 0.0,
    }


def last_number(text: str) -> float | None:
    """The last number in a text, without thousands' commas."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None


def checked(value: Any, where: str) -> Conversation:
    """The value as a conversation: an optional system message, then user and assistant in turn.

    Raises `BadSource`, naming `where` (file and row), for anything else.
    """
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not messages:
        raise _bad(where, "has no `messages`")
    turns = messages[1:] if isinstance(messages[0], dict) and messages[0].get("role") == "system" else messages
    kept = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _bad(where, f"has a message {number} that is not an object")
        kept.append({"role": message.get("role"), "content": _content(message.get("content"), number, where)})
    for number, message in enumerate(turns):
        if message.get("role") != ("user", "assistant")[number % 2]:
            raise _bad(where, f"has a message of role `{message.get('role')}` where the other one's turn is")
    if len(turns) < 2:
        raise _bad(where, "has no answer of the assistant")
    return {"messages": kept}


def _content(content: Any, number: int, where: str) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise _bad(where, f"has a message {number} without `content`")
    parts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in PARTS or not isinstance(part.get("text"), str):
            raise _bad(where, f"has a message {number} with a part that is not `type` ({', '.join(PARTS)}) and `text`")
        parts.append({"type": part["type"], "text": part["text"]})
    return parts


def _bad(where: str, what: str) -> BadSource:
    return BadSource(
        f"{where} {what}.",
        hint='A row is `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`.',
    )
