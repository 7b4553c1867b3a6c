"""Pairs of answers to a prompt, of which one is preferred, in a JSON or JSONL file of the user's.

    {"prompt": "What is the capital of France?", "chosen": "Paris.", "rejected": "I do not know."}
    {"messages": [{"role": "user", "content": "Hi"}], "chosen": "Hello!", "rejected": "What?"}

`prompt` and `messages` are a text or a list of messages that ends with the user's. `chosen` and `rejected` are a text,
a list of its parts, or one message of the assistant, also in a list. Other fields are not read. Every tenth pair,
beginning with the first, is held out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.errors import BadConfig, BadSource
from nanochat.sources.json_records import json_records
from nanochat.sources.local_files import is_local, local_path
from nanochat.tasks.conversation import Conversation, Split
from nanochat.tasks.fields import Counts, FieldRules
from nanochat.tasks.messages import Message, is_message, one_system, read_content, read_messages, reason_to_skip
from nanochat.tasks.own_conversations import VALIDATION_EVERY

PROMPTS, ANSWERS = ("messages", "prompt"), ("chosen", "rejected")
HINT = 'A pair is `{"prompt": "…", "chosen": "…", "rejected": "…"}`.'


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt."""

    prompt: list[Message]
    """Ends with the user's message. Its answers are not trained on."""
    chosen: Any
    """The content of the assistant's message: a text, or parts."""
    rejected: Any

    def conversations(self) -> tuple[Conversation, Conversation]:
        """With the chosen and with the rejected answer."""
        chosen, rejected = ({"role": "assistant", "content": content} for content in (self.chosen, self.rejected))
        return {"messages": [*self.prompt, chosen]}, {"messages": [*self.prompt, rejected]}


def read_pairs(source: str, split: Split) -> Iterator[Pair]:
    """The pairs of a file, in its order.

    Raises `BadConfig` if it is not a file of this machine, and `BadSource`, naming file and row, for a row that is not
    a pair.
    """
    if not is_local(source) or not local_path(source).is_file():
        raise BadConfig(
            f"Preference optimization needs a file of pairs, and `{source}` is none.",
            hint="Set `pairs.source` to a JSON or JSONL file.",
        )
    for number, (where, row) in enumerate(json_records(local_path(source))):
        if (number % VALIDATION_EVERY == 0) == (split == "validation"):
            yield _pair(row, where)


def _pair(row: Any, where: str) -> Pair:
    if not isinstance(row, Mapping):
        raise BadSource(f"{where} is not an object.", hint=HINT)
    found = [name for name in PROMPTS if row.get(name) not in (None, "", [])]
    if len(found) != 1:
        names = "both `prompt` and `messages`" if found else "neither `prompt` nor `messages`"
        raise BadSource(f"{where} has {names}.", hint=HINT)
    prompt = [
        {**message, "learn": False} if message["role"] == "assistant" else message
        for message in _prompt(row[found[0]], found[0], where)
    ]
    chosen, rejected = (_answer(row.get(name), f"{where} field `{name}`") for name in ANSWERS)
    if chosen == rejected:
        raise BadSource(f"{where} has the same answer in `chosen` and `rejected`.", hint="Remove it.")
    pair = Pair(prompt, chosen, rejected)
    for name, conversation in zip(ANSWERS, pair.conversations(), strict=True):
        if reason := reason_to_skip(conversation["messages"]):
            raise BadSource(f"{where} is no conversation with `{name}`: {reason.replace('_', ' ')}.", hint=HINT)
    return pair


def _prompt(value: Any, name: str, where: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": "user", "content": read_content(value, "user", f"{where} field `{name}`", _rules())}]
    if not isinstance(value, list):
        raise BadSource(f"{where} has no text and no list of messages in `{name}`.", hint=HINT)
    return one_system(read_messages(value, where, name, _rules()))


def _answer(value: Any, where: str) -> str | list[dict[str, str]]:
    """The content of an answer."""
    if isinstance(value, list) and len(value) == 1 and is_message(value[0]):
        value = value[0]
    if isinstance(value, Mapping) and is_message(value):
        if value.get("role") != "assistant":
            raise BadSource(f"{where} is not a message of the assistant.", hint=HINT)
        value = value.get("content")
    if isinstance(value, list) and any(is_message(each) for each in value):
        raise BadSource(f"{where} has several messages.", hint="Put all but the last one into `prompt`.")
    if value is None:
        raise BadSource(f"{where} has no answer.", hint=HINT)
    return read_content(value, "assistant", where, _rules())


def _rules() -> FieldRules:
    """Fields of messages are read as in conversations."""
    return FieldRules(Counts())
