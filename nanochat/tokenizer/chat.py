"""Renders conversations to token ids, with a mask of the tokens that are trained on.

    BOS  <|user_start|>Hi<|user_end|>  <|assistant_start|>Hello!<|assistant_end|>  …
    mask 0 everywhere but on                              Hello!<|assistant_end|>

An assistant's message may have parts: text and python, which are trained on, and the output of the python, which is
not, because the engine writes it. A system message is put before the first user message; an empty one adds nothing. A
message with `"learn": False` is not trained on.
"""

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
    """Ids and mask (1: trained on) of a conversation, truncated to `max_tokens`.

    Raises `BadSource`, naming the message, if user and assistant do not take turns or a part is unknown.
    """
    ids, mask = [tokenizer.bos], [0]
    special = tokenizer.special_tokens
    for position, message in enumerate(_with_system_merged(conversation["messages"])):
        expected = "assistant" if position % 2 else "user"
        if message["role"] != expected:
            raise BadSource(f"Message {position} is from the {message['role']}, but it is the {expected}'s turn.")
        if expected == "user":
            question = tokenizer.encode(_text(message, position))
            ids += [special["<|user_start|>"], *question, special["<|user_end|>"]]
            mask += [0] * (len(question) + 2)
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
    """Ids of a conversation whose last message is from the user, up to the start of the assistant's answer."""
    ids, _ = render(tokenizer, {"messages": messages}, 1 << 62)
    return [*ids, tokenizer.special("<|assistant_start|>")]


def _with_system_merged(messages: Sequence[Message]) -> Sequence[Message]:
    if not messages:
        raise BadSource("The conversation has no message.")
    if messages[0]["role"] != "system":
        return messages
    if len(messages) < 2 or messages[1]["role"] != "user":
        raise BadSource("Message 1 must be from the user: it follows the system message.")
    system, question = _text(messages[0], 0), _text(messages[1], 1)
    merged = f"{system}\n\n{question}" if system.strip() else question
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
