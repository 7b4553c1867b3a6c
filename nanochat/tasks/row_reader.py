"""Reads one row of chat data: finds its messages in any supported form, and checks all other fields."""

import json
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any

from nanochat.errors import BadSource
from nanochat.sources.file_names import split_of
from nanochat.tasks.conversation import Split
from nanochat.tasks.fields import REFUSED, FieldRules, is_empty, names_of, shown
from nanochat.tasks.messages import (
    ANSWERS,
    CONTENT_FIELDS,
    QUESTIONS,
    Message,
    is_message,
    is_parts,
    message_text,
    one_of,
    read_content,
    read_messages,
)

LISTS = ("messages", "conversations", "conversation")
CONTEXTS = ("input", "context")
SYSTEMS = ("system", "system_prompt")
READ = frozenset((*LISTS, *QUESTIONS, *ANSWERS, *CONTEXTS, *SYSTEMS, "history"))
PAIR = frozenset((*QUESTIONS, *ANSWERS))
HISTORY = 'A history is a list of pairs, `[["question", "answer"]]`, or of messages.'
ANSWER_OF = {"instruction": "output", "prompt": "completion"}
PREFERENCES = ("chosen", "rejected", "rejected_response", "rejected_messages")
FORMS = (
    "`messages`, `conversations` (ShareGPT), `instruction` and `output` (Alpaca), `prompt` and `completion` (or "
    "`response`), or `question` and `answer`"
)


class RowReader:
    """Reads one row, and records the names of the fields it has read."""

    def __init__(self, fields: Mapping[str, Any], where: str, rules: FieldRules) -> None:
        self._fields, self._where, self._rules = fields, where, rules
        self._read: set[str] = set()

    def messages(self) -> list[Message]:
        """All messages of the row, in any form; their order is not checked."""
        wanted = () if self._fields.keys().isdisjoint(PREFERENCES) else PREFERENCES
        for name in wanted:  # beside another answer, they are ordinary unread fields
            if not is_empty(self._fields.get(name)) and not self._fields.keys() & {*LISTS, *ANSWERS}:
                raise BadSource(
                    f"{self._where} has the field `{name}`: {REFUSED[name]}.",
                    hint="Keep the question and the chosen answer as `messages`.",
                )
        name, system = self._take(SYSTEMS)
        before = "" if is_empty(system) else self._text(name, system, "system")
        self._read.update(LISTS)
        if self._fields.keys().isdisjoint(LISTS):
            return self._with_system(before, self._question_and_answer())
        lists = {name: value for name in LISTS if not is_empty(value := self._fields.get(name))}
        if lists:
            return self._with_system(before, self._listed(lists))
        if self._fields.keys().isdisjoint(PAIR):
            return []
        return self._with_system(before, self._question_and_answer())

    def _listed(self, lists: Mapping[str, Any]) -> list[Message]:
        """The messages of the row's list; two lists must have the same messages."""
        for name, value in lists.items():
            if not isinstance(value, list):
                raise BadSource(
                    f"{self._where} has no list of messages in `{name}`, but {_kind(value)}.",
                    hint="Write it as a list, not as JSON in a text."
                    if isinstance(value, str)
                    else f"A row has {FORMS}.",
                )
        first, *others = lists
        messages = read_messages(lists[first], self._where, first, self._rules)
        for name in others:
            if read_messages(lists[name], self._where, name, self._rules) != messages:
                raise BadSource(
                    f"{self._where} has `{first}` and `{name}`, which differ.",
                    hint="Keep one of them, or name the other in the item's `ignore_fields`.",
                )
        return messages

    def weight(self) -> int:
        """The `weight` of the row: 1, or 0 for a conversation that is not trained on."""
        self._read.add("weight")
        weight = self._fields.get("weight")
        if weight is not None and (not isinstance(weight, bool | int | float) or weight not in (0, 1)):
            raise BadSource(
                f"{self._where} has the `weight` {shown(repr(weight))}, which is neither 0 nor 1.",
                hint="A conversation is trained on or not; use the `weight` and `repeats` of the item instead.",
            )
        return 1 if weight is None else int(weight)

    def check_split(self, wanted: Split) -> None:
        """Raises `BadSource` if the row belongs to another split."""
        split = self._fields.get("split")
        if not isinstance(split, str):
            return
        self._read.add("split")
        if split_of(split) not in ("", "train", wanted):
            raise BadSource(
                f"{self._where} belongs to the split `{shown(split)}`.",
                hint="Put the rows of each split into files of its own (`validation.jsonl`), or name `split` in the "
                "item's `ignore_fields`.",
            )

    def check_rest(self, messages: Sequence[Message]) -> None:
        """Counts the fields that were not read; raises `UnreadFields` for those that matter."""
        if self._fields.keys() <= self._read:
            return

        def texts() -> list[str]:
            found = [self._fields.get(name) for name in (*QUESTIONS, *CONTEXTS, *ANSWERS) if name in self._read]
            return [text for text in found if isinstance(text, str)] or [message_text(message) for message in messages]

        rest = {name: value for name, value in self._fields.items() if name not in self._read}
        self._rules.check_rest(rest, self._where, texts, known=READ)

    def _question_and_answer(self) -> list[Message]:
        question_name, question = self._take(QUESTIONS)
        answer_name, answer = self._take(ANSWERS)
        if _is_messages(question):
            texts = [(question_name, question)]
        else:
            context_name, context = self._take(CONTEXTS)
            pairs = ((question_name, question), (context_name, context))
            texts = [(name, value) for name, value in pairs if value is not None]
            if not self._has_question_and_answer(texts):
                raise BadSource(
                    f"{self._where} is not a conversation: it has {names_of(self._fields)}.", hint=f"A row has {FORMS}."
                )
        if answer_name not in self._fields:
            wanted = ANSWER_OF.get(question_name if question_name in self._fields else "", "answer")
            raise BadSource(
                f"{self._where} has no `{wanted}`: it has {names_of(self._fields)}.", hint=f"A row has {FORMS}."
            )
        return [*self._history(), *self._question(texts), *self._turns(answer_name, answer, "assistant")]

    def _has_question_and_answer(self, texts: Sequence[tuple[str, Any]]) -> bool:
        """Whether the row has a field for a question, and one for an answer if it has only a context."""
        names = self._fields.keys()
        return not names.isdisjoint(QUESTIONS) or (bool(texts) and not names.isdisjoint(ANSWERS))

    def _question(self, texts: Sequence[tuple[str, Any]]) -> list[Message]:
        """The messages of a question and its context."""
        if len(texts) == 1 and _is_messages(texts[0][1]):
            # in this form, the prompt is not trained on, and the whole completion is
            earlier = self._turns(*texts[0], "user")
            return [{**one, "learn": False} if one["role"] == "assistant" else one for one in earlier]
        found = [self._text(name, value, "user") for name, value in texts]
        return [{"role": "user", "content": "\n\n".join(text for text in found if text)}]

    def _turns(self, name: str, value: Any, role: str) -> list[Message]:
        """The messages in a field, or its text as a message of `role`."""
        if _is_messages(value):
            return read_messages(value if isinstance(value, list) else [value], self._where, name, self._rules)
        return [{"role": role, "content": self._content(name, value, role)}]

    def _history(self) -> list[Message]:
        """Earlier turns: pairs of question and answer, or messages."""
        _, history = self._take(("history",))
        if is_empty(history):
            return []
        if not isinstance(history, list):
            raise BadSource(f"{self._where} has no list of turns in `history`, but {_kind(history)}.", hint=HISTORY)
        if all(isinstance(turn, Mapping) for turn in history):
            return read_messages(history, self._where, "history", self._rules)
        messages: list[Message] = []
        for number, turn in enumerate(history):
            if not isinstance(turn, list) or len(turn) != 2:
                raise BadSource(
                    f"{self._where} has a turn {number} in `history` that is not a question and an answer.",
                    hint=HISTORY,
                )
            for role, text in zip(("user", "assistant"), turn, strict=True):
                messages.append({"role": role, "content": self._content("history", text, role)})
        return messages

    def _with_system(self, system: str, messages: list[Message]) -> list[Message]:
        """The messages, after the row's own system text unless they begin with the same text."""
        if not system:
            return messages
        own = message_text(messages[0]) if messages and messages[0]["role"] == "system" else ""
        if own.strip() == system.strip():
            return messages
        if own.strip():
            raise BadSource(
                f"{self._where} has a system text beside its messages, which begin with another one.",
                hint="Keep one of them, or name the field in the item's `ignore_fields`.",
            )
        return [{"role": "system", "content": system}, *messages]

    def _take(self, names: Sequence[str]) -> tuple[str, Any]:
        """Name and value of the field among `names` (which all mean the same) that has a value; None if none exists."""
        self._read.update(names)
        if self._fields.keys().isdisjoint(names):
            return names[0], None
        present = [name for name in names if name in self._fields]
        if len(present) == 1:
            return present[0], self._fields[present[0]]
        value = one_of(self._fields, names, self._where)
        return next((name for name in present if self._fields[name] == value), names[0]), value

    def _text(self, name: str, value: Any, role: str) -> str:
        """The text of a field that is not an answer."""
        content = self._content(name, value, role)
        return content if isinstance(content, str) else "".join(part["text"] for part in content)

    def _content(self, name: str, value: Any, role: str) -> str | list[dict[str, str]]:
        """A text or a list of parts; null is an empty text."""
        if isinstance(value, str) and value.isascii():
            return value
        if value is None or isinstance(value, str) or is_parts(value):
            return read_content(value, role, f"{self._where} `{name}`", self._rules)
        raise BadSource(
            f"{self._where} has no text in `{name}`, but {_kind(value)}.",
            hint="Write it as a text, in quotation marks." if isinstance(value, Number) else f"A row has {FORMS}.",
        )


def _is_messages(value: Any) -> bool:
    """Whether the value of a question or an answer is one or more messages."""
    if isinstance(value, list):
        return bool(value) and not is_parts(value)
    return is_message(value) and any(name in value for name in CONTENT_FIELDS)


def _kind(value: Any) -> str:
    """The kind of a JSON value, for a message."""
    if isinstance(value, str):
        return "a text"
    if isinstance(value, Mapping):
        return f"an object with {names_of(value)}"
    if isinstance(value, list):
        return "a list"
    return (
        shown(json.dumps(value)) if isinstance(value, bool | int | float) else f"a value of type {type(value).__name__}"
    )
