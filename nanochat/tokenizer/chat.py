"""Conversations to ids, with a mask that says what the model is to learn.

    BOS  <|user_start|>Hi<|user_end|>  <|assistant_start|>Hello!<|assistant_end|>  …
    mask 0 everywhere but on                              Hello!<|assistant_end|>

An assistant's message may have parts: text, python (learnt), and the python's output (not learnt: the engine writes
it). A system message is put before the first user message; an empty one adds nothing. Of a message with
`"learn": False` nothing is learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.errors import BadSource
from nanochat.tokenizer.bpe import Tokenizer

Message = Mapping[str, Any]
BLOCKS = {
    "text": None,
    "python": ("<|python_start|>", "<|python_end|>"),
    "python_output": ("<|output_start|>", "<|output_end|>"),
}


def render(tokenizer: Tokenizer, conversation: Mapping[str, Any], max_tokens: int) -> tuple[list[int], list[int]]:
    """Ids and mask (1: to be learnt) of a conversation, cut to `max_tokens`.

    Raises `BadSource`, naming the message, when user and assistant do not take turns or a part is unknown.
    """
    ids, mask = [tokenizer.bos], [0]
    special = tokenizer.special_tokens
    for position, message in enumerate(_with_system_merged(conversation["messages"])):
        expected = "assistant" if position % 2 else "user"
        if message["role"] != expected:
            raise BadSource(f"Message {position} is the {message['role']}'s, but it is the {expected}'s turn.")
        if expected == "user":
            asked = tokenizer.encode(_text(message, position))
            ids += [special["<|user_start|>"], *asked, special["<|user_end|>"]]
            mask += [0] * (len(asked) + 2)
            continue
        learn = int(message.get("learn", True))
        ids.append(special["<|assistant_start|>"])
        mask.append(0)
        for kind, text in _parts(message, position):
            tokens = tokenizer.encode(text)
            if block := BLOCKS[kind]:
                tokens = [special[block[0]], *tokens, special[block[1]]]
            ids += tokens
            mask += [0 if kind == "python_output" else learn] * len(tokens)
        ids.append(special["<|assistant_end|>"])
        mask.append(learn)
    if len(ids) <= max_tokens:
        return ids, mask
    return ids[:max_tokens], mask[:max_tokens]


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation whose last message is the user's, up to where the assistant begins to speak."""
    ids, _ = render(tokenizer, {"messages": messages}, 1 << 62)
    return [*ids, tokenizer.special("<|assistant_start|>")]


def _with_system_merged(messages: Sequence[Message]) -> Sequence[Message]:
    if not messages:
        raise BadSource("A conversation has no message.")
    if messages[0]["role"] != "system":
        return messages
    if len(messages) < 2 or messages[1]["role"] != "user":
        raise BadSource("Message 1 should be the user's: it follows the system's.")
    system, asked = _text(messages[0], 0), _text(messages[1], 1)
    merged = f"{system}\n\n{asked}" if system.strip() else asked
    return [{"role": "user", "content": merged}, *messages[2:]]


def _text(message: Message, position: int) -> str:
    if isinstance(message["content"], str):
        return message["content"]
    parts = _parts(message, position)
    if any(kind != "text" for kind, _ in parts):
        raise BadSource(f"Message {position} has a part that is not text.")
    return "".join(text for _, text in parts)


def _parts(message: Message, position: int) -> list[tuple[str, str]]:
    content = message["content"]
    if isinstance(content, str):
        return [("text", content)]
    if not isinstance(content, list):
        raise BadSource(f"Message {position} has no text.")
    for part in content:
        if part.get("type") not in BLOCKS or not isinstance(part.get("text"), str):
            raise BadSource(f"Message {position} has a part of the unknown type `{part.get('type')}`.")
    return [(part["type"], part["text"]) for part in content]
