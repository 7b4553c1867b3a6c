"""The text of one answer, released as soon as it is certain.

    tokens   "The quick br" "own" " f" "ox"      stop string "own fox"
    released "The quick br"                      then nothing: the rest was the stop string

Three things are held back: a character whose last byte is missing, the end of the text that may become a stop string
(a proper prefix of one, and no more), and the tokens of both. A token is released with its last character. So the
released texts joined are the text of the whole answer, and ids, log-probabilities and text stay aligned.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nanochat.inference.request import Part, PartKind, TokenLogprob


class Written(NamedTuple):
    """A token of an answer."""

    token: int
    forced: bool
    logprob: TokenLogprob | None


class _Unreleased(NamedTuple):
    """A token that is not released, with the positions of its first character and after its last one."""

    written: Written
    start: int
    end: int


class AnswerText:
    """The text and tokens of one answer that are not released yet."""

    def __init__(
        self,
        token_bytes: Sequence[bytes | None],
        parts: Mapping[int, PartKind],
        stops: Sequence[str] = (),
        unfinished: bytes = b"",
    ) -> None:
        """Text that follows a prompt which ends with the bytes `unfinished` of a character.

        The first character of the answer completes it. `parts` has the kind of part that begins at each marker.
        """
        self._token_bytes = token_bytes
        self._markers = parts
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder.decode(unfinished)
        self._kind: PartKind = "text"
        self._pending = ""
        """Characters of this part that are complete and not released."""
        self._decoded = 0
        """Characters of this part that are complete."""
        self._unreleased: deque[_Unreleased] = deque()
        self._released: list[Written] = []
        self._parts: list[Part] = []

    def add(self, written: Written) -> str | None:
        """Appends a token; returns the stop string that is now complete, if one is. The text then ends before it."""
        kind = self._markers.get(written.token)
        if kind is not None:
            stop = self.flush()
            if stop is not None:
                return stop
            self._released.append(written)
            self._kind, self._decoded = kind, 0
            self._parts.append(Part(kind, ""))  # an empty part: two blocks in a row stay two parts
            return None
        token_bytes = self._token_bytes[written.token] or b""
        start = self._decoded
        text = self._decoder.decode(token_bytes)
        incomplete = bool(self._decoder.getstate()[0])
        self._decoded += len(text)
        self._pending += text
        self._unreleased.append(_Unreleased(written, start, self._decoded + incomplete))
        held_back = 0
        if self._stops and self._kind == "text" and text:
            stop = self._end_at_stop()
            if stop is not None:
                return stop
            held_back = self._possible_stop()
        elif self._stops and self._kind == "text":
            held_back = len(self._pending)
        self._release(len(self._pending) - held_back)
        return None

    def flush(self) -> str | None:
        """Releases everything: this part ends here. An incomplete character becomes U+FFFD.

        Returns the stop string that ends with this U+FFFD, if there is one. The text then ends before it.
        """
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._pending += text
        self._decoded += len(text)
        if self._stops and self._kind == "text" and text:
            stop = self._end_at_stop()
            if stop is not None:
                return stop
        self._release(len(self._pending))
        while self._unreleased:
            self._released.append(self._unreleased.popleft().written)
        return None

    def take(self) -> tuple[list[Written], list[Part]]:
        """The tokens and parts that were released since the last call."""
        released, parts = self._released, self._parts
        self._released, self._parts = [], []
        return released, parts

    def _release(self, characters: int) -> None:
        """Releases this many pending characters, and the tokens that end in them."""
        if characters:
            self._parts.append(Part(self._kind, self._pending[:characters]))
            self._pending = self._pending[characters:]
        released = self._decoded - len(self._pending)
        while self._unreleased and self._unreleased[0].end <= released:
            self._released.append(self._unreleased.popleft().written)

    def _end_at_stop(self) -> str | None:
        """If a stop string is complete, drops it and the tokens that begin in or after it, and releases the rest.

        Of several, the one that was complete first counts.
        """
        found = [(begin + len(stop), begin, stop) for stop in self._stops if (begin := self._pending.find(stop)) >= 0]
        if not found:
            return None
        _, begin, stop = min(found)
        self._decoded -= len(self._pending) - begin
        self._pending = self._pending[:begin]
        self._release(begin)
        self._released += [each.written for each in self._unreleased if each.start < self._decoded]
        self._unreleased.clear()
        self._decoder.reset()
        return stop

    def _possible_stop(self) -> int:
        """Length of the longest end of the pending text that is a proper prefix of a stop string."""
        longest = min(len(self._pending), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            end = self._pending[-length:]
            if any(stop.startswith(end) and len(stop) > length for stop in self._stops):
                return length
        return 0


def unfinished_character(prompt: bytes) -> bytes:
    """The bytes of an incomplete character at the end of a prompt, at most 3; empty if it ends with a whole one."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(prompt[-4:])
    return decoder.getstate()[0]


def joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts of a whole answer from those of its deltas: neighbours of one kind are one part, empty ones none."""
    whole: list[Part] = []
    for part in parts:
        if whole and whole[-1].kind == part.kind and part.text:
            whole[-1] = Part(part.kind, whole[-1].text + part.text)
        else:
            whole.append(part)
    return tuple(part for part in whole if part.text)
