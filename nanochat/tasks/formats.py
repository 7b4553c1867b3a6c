"""Chat data as it is found: a row of any of these forms becomes a conversation. The row's fields say which it is.

[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]                     nanochat
{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}       OpenAI
{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}           ShareGPT
{"instruction": "…", "input": "…", "output": "…", "history": [["…", "…"]]}                    Alpaca
{"prompt": "…", "completion": "…"}                                   each a text, or a list of messages
{"question": "…", "answer": "…"}

Every form may have a `system` text beside it. What becomes of other fields is in `fields.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.errors import BadSource
from nanochat.sources.names import split_of
from nanochat.sources.records import text_of
from nanochat.tasks.conversation import Conversation, Split
from nanochat.tasks.fields import REFUSED, FieldRules, says_nothing
from nanochat.tasks.messages import Message, in_turn, message_text, one_of, read_messages, reason_to_skip

LISTS = ("messages", "conversations", "conversation")
QUESTIONS = ("instruction", "prompt", "question", "query")
ANSWERS = ("output", "completion", "response", "answer")
CONTEXTS = ("input", "context")
SYSTEMS = ("system", "system_prompt")
READ = frozenset((*LISTS, *QUESTIONS, *ANSWERS, *CONTEXTS, *SYSTEMS, "history"))
ANSWER_OF = {"instruction": "output", "prompt": "completion"}
PREFERENCES = ("chosen", "rejected", "rejected_response", "rejected_messages")
FORMS = (
    "`messages`, `conversations` (ShareGPT), `instruction` and `output` (Alpaca), `prompt` and `completion` (or "
    "`response`), or `question` and `answer`"
)


def conversation_of(row: Any, where: str, rules: FieldRules, split: Split = "train") -> Conversation | None:
    """The row as a conversation, or nothing if it has nothing to learn, which is counted.

    Raises `BadSource`, naming `where` (file and row) and the field, for anything that is not understood.
    """
    if isinstance(row, list):
        row = {"messages": _own_form(row, where)}
    if not isinstance(row, Mapping):
        raise BadSource(f"{where} is not an object with fields.", hint=f"A row has {FORMS}.")
    reader = _Row(rules.without_ignored(row), where, rules)
    messages = reader.messages()
    skip = reader.weight() == 0
    reader.check_split(split)
    reader.check_rest(messages)
    messages = in_turn(messages, where)
    if reason := "weight_0" if skip else reason_to_skip(messages):
        rules.counts.skipped[reason] += 1
        return None
    return {"messages": messages}


def _own_form(row: list[Any], where: str) -> list[Any]:
    """nanochat's own form: the messages themselves."""
    if row and isinstance(row[0], Mapping) and row[0].keys() & {*LISTS, *QUESTIONS, *ANSWERS}:
        raise BadSource(
            f"{where} is a list of conversations.", hint="Write one a line, for example with `jq -c '.[]'`."
        )
    return row


class _Row:
    """A row while it is read, with the names of the fields that were."""

    def __init__(self, fields: Mapping[str, Any], where: str, rules: FieldRules) -> None:
        self._fields, self._where, self._rules = fields, where, rules
        self._read: set[str] = set()

    def messages(self) -> list[Message]:
        """All messages of the row, whatever its form; their order is not checked."""
        for name in PREFERENCES:
            if not says_nothing(self._fields.get(name)):
                raise BadSource(
                    f"{self._where} has the field `{name}`: {REFUSED[name]}.",
                    hint="Keep the question and the chosen answer as `messages`.",
                )
        name, system = self._take(SYSTEMS)
        before = "" if says_nothing(system) else self._text(name, system)
        asks = bool(self._fields.keys() & {*QUESTIONS, *ANSWERS})
        name, listed = self._take(LISTS)
        if listed is None or (asks and says_nothing(listed)):
            return self._with_system(before, self._question_and_answer())
        if not isinstance(listed, list) or not listed:
            raise BadSource(f"{self._where} has no list of messages in `{name}`.", hint=f"A row has {FORMS}.")
        return self._with_system(before, read_messages(listed, self._where, name, self._rules))

    def weight(self) -> int:
        """1, or 0 for a conversation that is not to be learnt."""
        _, weight = self._take(("weight",))
        if weight is not None and (not isinstance(weight, bool | int | float) or weight not in (0, 1)):
            raise BadSource(
                f"{self._where} has the `weight` {weight!r}, which is neither 0 nor 1.",
                hint="Items of a mixture have a `weight` and `repeats`; one conversation is learnt or not.",
            )
        return 1 if weight is None else int(weight)

    def check_split(self, wanted: Split) -> None:
        """Refuses a row that says that it belongs to another split."""
        _, split = self._take(("split",))
        if isinstance(split, str) and split_of(split) not in ("", "train", wanted):
            raise BadSource(
                f"{self._where} is of the split `{split}`.",
                hint="Put the rows of each split into files of its own (`validation.jsonl`), or name `split` in the "
                "item's `ignore_fields`.",
            )

    def check_rest(self, messages: Sequence[Message]) -> None:
        """Counts the fields that were not read, and refuses those that carry a meaning."""
        texts = [self._fields.get(name) for name in (*QUESTIONS, *CONTEXTS, *ANSWERS) if name in self._read]
        said = [text for text in texts if isinstance(text, str)] or [message_text(message) for message in messages]
        rest = {name: value for name, value in self._fields.items() if name not in self._read}
        self._rules.check_rest(rest, self._where, said, known=READ)

    def _question_and_answer(self) -> list[Message]:
        asked, question = self._take(QUESTIONS)
        said, answer = self._take(ANSWERS)
        if isinstance(question, list) and question:
            earlier = read_messages(question, self._where, asked, self._rules)
            # the form says that of a prompt nothing is learnt, and of a completion everything
            messages = [{**one, "learn": False} if one["role"] == "assistant" else one for one in earlier]
        else:
            about, context = self._take(CONTEXTS)
            if question is None and (context is None or answer is None):
                has = ", ".join(f"`{name}`" for name in self._fields) or "nothing"
                raise BadSource(f"{self._where} is no conversation: it has {has}.", hint=f"A row has {FORMS}.")
            asking = [(asked, question), (about, context)]
            texts = [self._text(name, value) for name, value in asking if value is not None]
            messages = [{"role": "user", "content": "\n\n".join(text for text in texts if text)}]
        if isinstance(answer, list) and answer:
            return [*self._history(), *messages, *read_messages(answer, self._where, said, self._rules)]
        if answer is None:
            said = next((name for name in ANSWERS if name in self._fields), ANSWER_OF.get(asked, "answer"))
        return [*self._history(), *messages, {"role": "assistant", "content": self._text(said, answer)}]

    def _history(self) -> list[Message]:
        """Earlier turns: pairs of question and answer, or messages."""
        _, history = self._take(("history",))
        if says_nothing(history):
            return []
        if not isinstance(history, list):
            raise BadSource(f"{self._where} has no list of turns in `history`.")
        if all(isinstance(turn, Mapping) for turn in history):
            return read_messages(history, self._where, "history", self._rules)
        messages: list[Message] = []
        for number, turn in enumerate(history):
            if not isinstance(turn, list) or len(turn) != 2:
                raise BadSource(f"{self._where} has a turn {number} in `history` that is not a question and an answer.")
            for role, text in zip(("user", "assistant"), turn, strict=True):
                messages.append({"role": role, "content": self._text("history", text)})
        return messages

    def _with_system(self, system: str, messages: list[Message]) -> list[Message]:
        """The messages, and before them the row's own system text unless they begin with the same."""
        own = message_text(messages[0]) if messages[0]["role"] == "system" else ""
        if not system or own == system:
            return messages
        if own.strip():
            raise BadSource(
                f"{self._where} has a system text beside its messages, which begin with another one.",
                hint="Keep one of them, or name the field in the item's `ignore_fields`.",
            )
        return [{"role": "system", "content": system}, *messages]

    def _take(self, names: Sequence[str]) -> tuple[str, Any]:
        """Name and value of the one field that says something, of fields with one meaning; null if none is there."""
        self._read.update(names)
        value = one_of(self._fields, names, self._where)
        return next((name for name in names if self._fields.get(name) == value), names[0]), value

    def _text(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise BadSource(
                f"{self._where} has no text in `{name}`.",
                hint="Write numbers and other values as texts, in quotation marks.",
            )
        return text_of(value, f"{self._where} `{name}`")
