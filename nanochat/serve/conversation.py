"""A conversation with a model, and its JSON file, which the chat page exports and imports, too.

    {"format": "nanochat-conversations", "version": 1, "conversations": [
        {"system": "Answer briefly.",
         "messages": [{"role": "user", "content": "What is 3 plus 4?"},
                      {"role": "assistant", "content": [{"type": "python", "text": "3+4"},
                                                        {"type": "python_output", "text": "7"},
                                                        {"type": "text", "text": "It is 7."}]}]}]}

The content of a message is a string, or a list of parts if the calculator was used. In a conversation with branches,
each message has the index of its `parent`, and `leaf` is the last message of the branch that is shown. A file may also
be a single conversation, such as a row of training data: {"messages": […]}, where the first role may be "system".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from nanochat.errors import BadConfig
from nanochat.inference.request import Part, PartKind
from nanochat.system_errors import from_system
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render_prompt

MAX_FILE_BYTES = 16 << 20


class _FilePart(BaseModel):
    type: PartKind
    text: str


class _FileMessage(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str | list[_FilePart]
    parent: int | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if part.type == "text")


class _FileConversation(BaseModel):
    messages: list[_FileMessage]
    system: str = ""
    updated: float = 0
    leaf: int = -1

    def conversation(self) -> Conversation:
        """The shown branch, without an unanswered question at its end. Raises `ValueError` if turns are wrong."""
        system, messages = self.system, self.messages
        if messages and messages[0].role == "system":
            system, messages = system or messages[0].text, messages[1:]
        branch: list[_FileMessage] = []
        index = self.leaf if 0 <= self.leaf < len(messages) else len(messages) - 1
        while index >= 0:
            branch.insert(0, messages[index])
            parent = messages[index].parent
            before = index - 1 if parent is None else parent
            if before >= index:
                raise ValueError("a message follows a later one")
            index = before
        if any(message.role != ("assistant" if place % 2 else "user") for place, message in enumerate(branch)):
            raise ValueError("user and assistant do not take turns")
        found = Conversation(system=system)
        for question, answer in zip(branch[::2], branch[1::2], strict=False):
            found.ask(question.text)
            parts = (
                answer.content if isinstance(answer.content, list) else [_FilePart(type="text", text=answer.content)]
            )
            found.answer([Part(part.type, part.text) for part in parts])
        return found


class _File(BaseModel):
    conversations: list[_FileConversation]


@dataclass
class Conversation:
    """Messages of user and assistant in turns; the last one is the user's while an answer is generated."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    system: str = ""
    """Put before the first question; empty: nothing."""

    def ask(self, text: str) -> None:
        """Appends a question."""
        self.messages.append({"role": "user", "content": text})

    def answer(self, parts: Sequence[Part]) -> None:
        """Appends an answer: its text, or the list of its parts if the calculator was used."""
        if all(part.kind == "text" for part in parts):
            content: Any = "".join(part.text for part in parts)
        else:
            content = [{"type": part.kind, "text": part.text} for part in parts]
        self.messages.append({"role": "assistant", "content": content})

    def take_back(self) -> str:
        """Removes the last question and its answer; returns the question. Raises `BadConfig` if there is none."""
        if not self.messages:
            raise BadConfig("The conversation is empty.")
        if self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        return self.messages.pop()["content"]

    def prompt(self, tokenizer: Tokenizer, context_tokens: int) -> list[int]:
        """Ids up to the start of the next answer. Raises `BadConfig` if the context has no room for an answer."""
        ids = render_prompt(tokenizer, self._all_messages())
        if len(ids) >= context_tokens:
            raise BadConfig(
                f"The conversation has {len(ids):,} tokens, and the model's context {context_tokens:,}.",
                hint="`/shorten` forgets the oldest turns, `/clear` starts a new conversation.",
            )
        return ids

    def shorten(self, tokenizer: Tokenizer, to_tokens: int) -> int:
        """Removes the oldest turns until the rest has at most `to_tokens`; returns how many turns were removed."""
        before = len(self.messages)
        probe = {"role": "user", "content": ""}
        while self.messages and len(render_prompt(tokenizer, [*self._all_messages(), probe])) > to_tokens:
            del self.messages[:2]
        return (before - len(self.messages)) // 2

    def save(self, path: Path) -> None:
        """Writes the file, or replaces one of a single conversation. Raises `BadConfig` if it has other content."""
        if path.exists() and len(_read(path)) > 1:
            raise BadConfig(f"`{path}` has several conversations.", hint="Choose another name.")
        one = {"system": self.system, "messages": self.messages}
        content = {"format": "nanochat-conversations", "version": 1, "conversations": [one]}
        try:
            path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise from_system(error, "the conversation") from error

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """Reads a file; of several conversations, the one that was changed last. Raises `BadConfig` for any other."""
        return max(_read(path), key=lambda found: found.updated).conversation()

    def _all_messages(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": self.system}, *self.messages] if self.system else self.messages


def _read(path: Path) -> list[_FileConversation]:
    """The conversations of a file, at least one, each with valid turns. Raises `BadConfig`."""
    hint = "Name a file that `/save` or the chat page wrote."
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise from_system(error, "the conversation") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadConfig(f"`{path}` has more than {MAX_FILE_BYTES >> 20} MB.", hint=hint)
    try:
        found = TypeAdapter(_File | _FileConversation).validate_json(data)
        conversations = found.conversations if isinstance(found, _File) else [found]
        if not conversations:
            raise ValueError("it is empty")
        for each in conversations:
            each.conversation()
    except ValidationError as error:
        raise BadConfig(f"`{path}` is not a conversation: {error.errors()[0]['msg']}.", hint=hint) from error
    except ValueError as error:
        raise BadConfig(f"`{path}` is not a conversation: {error}.", hint=hint) from error
    return conversations
