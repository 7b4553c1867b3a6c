"""The deltas of one answer as text, calculations and tokens of the text.

The tokens of a calculation, and those that mark its blocks, are not tokens of the text: joined, the log-probabilities'
tokens are the content.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nanochat.inference.request import Delta, FinishReason, TokenLogprob
from nanochat.tokenizer.bpe import Tokenizer

BLOCKS = {"<|python_start|>": "<|python_end|>", "<|output_start|>": "<|output_end|>"}


@dataclass(frozen=True)
class Marks:
    """The ids that begin and end blocks."""

    begins: frozenset[int]
    ends: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Marks:
        """Those of a vocabulary."""
        return cls(frozenset(map(tokenizer.special, BLOCKS)), frozenset(map(tokenizer.special, BLOCKS.values())))


@dataclass
class Piece:
    """What a number of deltas add to an answer."""

    text: str = ""
    calculations: list[dict[str, Any]] = field(default_factory=list)
    """`{"expression", "result", "offset"}`: the result is None if there is none; the offset is in characters of the
    answer's text."""
    ids: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the tokens of the text."""
    finish: FinishReason | None = None
    stopped_by: str | int | None = None


class AnswerPieces:
    """Turns the deltas of one answer into pieces."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._in_block = False
        self._characters = 0
        self._open: dict[str, Any] | None = None
        """The calculation that is generated."""

    def add(self, piece: Piece, delta: Delta) -> None:
        """Appends a delta to a piece."""
        for part in delta.parts:
            if part.kind == "text":
                if part.text:
                    self._close(piece)
                piece.text += part.text
                self._characters += len(part.text)
            elif part.kind == "python":
                if self._open is not None and self._open["result"] is not None:
                    self._close(piece)
                if self._open is None:
                    self._open = {"expression": "", "result": None, "offset": self._characters}
                self._open["expression"] += part.text
            elif self._open is not None:
                self._open["result"] = (self._open["result"] or "") + part.text
        piece.ids += delta.ids
        piece.forced += delta.forced
        if delta.logprobs:
            self._add_logprobs(piece, delta)
        if delta.finish is not None:
            self._close(piece)
            piece.finish, piece.stopped_by = delta.finish, delta.stopped_by

    def _close(self, piece: Piece) -> None:
        if self._open is not None:
            piece.calculations.append(self._open)
            self._open = None

    def _add_logprobs(self, piece: Piece, delta: Delta) -> None:
        for each in delta.logprobs:
            if each.token in self._marks.begins:
                self._in_block = True
            elif each.token in self._marks.ends:
                self._in_block = False
            elif not self._in_block:
                piece.logprobs.append(each)
