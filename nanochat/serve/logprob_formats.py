r"""Log-probabilities as OpenAI's two formats have them. Bytes that are no character are shown as `bytes:\xe2`."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from nanochat.inference.request import TokenLogprob
from nanochat.tokenizer.bpe import Tokenizer

LEAST_LOGPROB = -9999.0
"""For a probability of 0, whose logarithm JSON does not have."""


def token_text(tokenizer: Tokenizer, token: int) -> str:
    r"""The text of a token; for part of a character, its bytes as `bytes:\xe2\x9c`."""
    data = tokenizer.id_to_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a choice of a chat completion."""
    content = [
        {
            **_chat_token(tokenizer, each.token, each.logprob),
            "top_logprobs": [_chat_token(tokenizer, *top) for top in each.top],
        }
        for each in logprobs
    ]
    return {"content": content, "refusal": None}


def _chat_token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    return {
        "token": token_text(tokenizer, token),
        "logprob": max(logprob, LEAST_LOGPROB),
        "bytes": list(tokenizer.id_to_bytes(token)),
    }


class CompletionLogprobs:
    """The `logprobs` of one choice of a completion, piece by piece: its offsets count the characters before."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._characters = 0

    def take(self, tokens: Sequence[tuple[int, TokenLogprob | None]]) -> dict[str, Any]:
        """The format for these tokens; None for the first of a prompt, which no token precedes."""
        offsets: list[int] = []
        for token, _ in tokens:
            offsets.append(self._characters)
            self._characters += len(self._decoder.decode(self._tokenizer.id_to_bytes(token)))
        return {
            "tokens": [token_text(self._tokenizer, token) for token, _ in tokens],
            "token_logprobs": [max(each.logprob, LEAST_LOGPROB) if each else None for _, each in tokens],
            "top_logprobs": [self._top(each) if each else None for _, each in tokens],
            "text_offset": offsets,
        }

    def _top(self, logprob: TokenLogprob) -> dict[str, float]:
        """The most likely tokens, and the token itself."""
        pairs = [*logprob.top, (logprob.token, logprob.logprob)]
        return {token_text(self._tokenizer, token): max(value, LEAST_LOGPROB) for token, value in pairs}
