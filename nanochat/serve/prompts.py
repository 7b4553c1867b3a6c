"""Messages and texts of requests as token ids. Each prompt has exactly one BOS, at its beginning.

Messages become a conversation as in training, where user and assistant take turns:

- `developer` is `system`; a system message is put before the user message that follows it
- neighbours of one role are joined, with an empty line between them
- an assistant's `calculator` blocks are put back into its content, so that it reads as it was generated
- a last message from the assistant is continued

Names of special tokens in a text are ordinary text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanochat.serve.error_envelope import invalid
from nanochat.serve.schemas import ChatMessage, CompletionBody
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render, render_prompt

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
PARTS = {"system": ("text",), "user": ("text",), "assistant": ("text", "python", "python_output")}
BETWEEN = "\n\n"
Part = dict[str, str]


def chat_ids(tokenizer: Tokenizer, messages: Sequence[ChatMessage]) -> list[int]:
    """Ids of a conversation up to where the assistant goes on. Raises `ApiError`: 400, naming the message."""
    turns = _turns(messages)
    if turns[-1]["role"] == "user":
        return render_prompt(tokenizer, turns)
    ids, _ = render(tokenizer, {"messages": turns}, 1 << 62)
    return ids[:-1]  # without the end of the assistant's message


def text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text, after BOS."""
    return [tokenizer.bos, *tokenizer.encode(text)]


def completion_prompts(tokenizer: Tokenizer, body: CompletionBody) -> list[tuple[list[int], int]]:
    """The ids of each prompt, and how many of them the client did not send: 1 if we added BOS.

    Raises `ApiError`: 400 for an id that is not in the vocabulary.
    """
    given = body.prompt
    several: list[str] | list[list[int]]
    if isinstance(given, str):
        several = [given]
    elif given and isinstance(given[0], int):
        several = [given]  # pyright: ignore[reportAssignmentType] - a list of ids
    else:
        several = given  # pyright: ignore[reportAssignmentType] - a list of texts or of lists of ids
    if not several:
        raise invalid("`prompt` is an empty list.", "prompt")
    return [_prompt(tokenizer, each) for each in several]


def _prompt(tokenizer: Tokenizer, given: str | list[int]) -> tuple[list[int], int]:
    if isinstance(given, str):
        return text_ids(tokenizer, given), 1
    if wrong := next((token for token in given if tokenizer.id_to_token(token) is None), None):
        raise invalid(f"`prompt` has the id {wrong}, which is not in the vocabulary.", "prompt")
    return (given, 0) if given[:1] == [tokenizer.bos] else ([tokenizer.bos, *given], 1)


def _turns(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages as turns of user and assistant."""
    turns: list[dict[str, Any]] = []
    system: list[str] = []
    for number, message in enumerate(messages):
        role = _role(message, number)
        parts = _parts(message, role, number)
        if role == "system":
            system.append(_joined(parts))
            continue
        if role == "user":
            text = BETWEEN.join([*(each for each in system if each.strip()), _joined(parts)])
            system, parts = [], [{"type": "text", "text": text}]
        elif system:
            raise _wrong(number, "is from the assistant, but a system message must be followed by a user's message")
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += [{"type": "text", "text": BETWEEN}, *parts]
        elif not turns and role == "assistant":
            raise _wrong(number, "is from the assistant, but a conversation begins with the user")
        else:
            turns.append({"role": role, "content": parts})
    if system or not turns:
        raise _wrong(len(messages) - 1, "is a system message, but the last message must be from the user")
    return [{**turn, "content": _merged(turn["content"])} for turn in turns]


def _role(message: ChatMessage, number: int) -> str:
    if message.role not in ROLES:
        known = ", ".join(f"`{role}`" for role in ROLES)
        raise _wrong(number, f"has the role `{message.role[:40]}`; this model has {known}")
    for field in ("tool_calls", "function_call", "audio"):
        if getattr(message, field):
            raise _wrong(number, f"has `{field}`, which this model does not have")
    return ROLES[message.role]


def _parts(message: ChatMessage, role: str, number: int) -> list[Part]:
    content = message.content
    if content is None:
        if role != "assistant":
            raise _wrong(number, "has no content")
        return []
    if isinstance(content, str):
        return _with_calculations(message, content, number) if role == "assistant" else [_text(content)]
    for place, part in enumerate(content):
        if part.type not in PARTS[role]:
            known = ", ".join(f"`{kind}`" for kind in PARTS[role])
            raise _wrong(
                number, f"has a part of the type `{part.type[:40]}`, which is not supported there, only {known}", place
            )
        if part.text is None:
            raise _wrong(number, "has a part without text", place)
    return [{"type": part.type, "text": part.text or ""} for part in content]


def _with_calculations(message: ChatMessage, content: str, number: int) -> list[Part]:
    """The content with its calculations where they were."""
    parts: list[Part] = []
    done = 0
    for each in message.calculator or []:
        if not done <= each.offset <= len(content):
            raise _wrong(number, "has a calculation whose offset is outside the content, or before the previous one")
        parts += [_text(content[done : each.offset]), {"type": "python", "text": each.expression}]
        if each.result is not None:
            parts.append({"type": "python_output", "text": each.result})
        done = each.offset
    return [*parts, _text(content[done:])]


def _text(text: str) -> Part:
    return {"type": "text", "text": text}


def _joined(parts: Sequence[Part]) -> str:
    return "".join(part["text"] for part in parts)


def _merged(parts: Sequence[Part]) -> list[Part]:
    """Neighbouring texts as one, so that they are encoded as one; without empty texts."""
    merged: list[Part] = []
    for part in parts:
        if merged and part["type"] == merged[-1]["type"] == "text":
            merged[-1] = _text(merged[-1]["text"] + part["text"])
        elif part["text"] or part["type"] != "text":
            merged.append(part)
    return merged


def _wrong(number: int, what: str, part: int | None = None) -> Exception:
    place = f"messages.{number}" if part is None else f"messages.{number}.content.{part}"
    return invalid(f"`{place}`: the message {what}.", "messages")
