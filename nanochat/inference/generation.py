"""One answer while it is generated: a sampled token goes in, what it makes certain comes out."""

from __future__ import annotations

from collections.abc import Sequence

from nanochat.inference.answer_text import AnswerText, Written, unfinished_character
from nanochat.inference.prefix_cache import Prefix
from nanochat.inference.python_blocks import Markers, PythonBlocks
from nanochat.inference.request import Delta, FinishReason, Request, TokenLogprob
from nanochat.inference.sampling import Row
from nanochat.tokenizer.bpe import Tokenizer


class Language:
    """What generations need of a vocabulary, computed once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.markers = Markers(tokenizer)
        self.token_bytes = tokenizer.token_bytes()

    def ends(self, request: Request) -> frozenset[int]:
        """The ids that end an answer when they are sampled."""
        sampling, markers = request.sampling, self.markers
        if sampling.ignore_end:
            return sampling.stop_ids
        ends = markers.end | markers.turn | sampling.stop_ids
        return ends | markers.output if sampling.calculator else ends  # the calculator writes outputs, not the model


class Generation:
    """An answer that has a slot. `prompt` is shared by the answers of a request."""

    def __init__(
        self, language: Language, number: int, request: Request, answer: int, prompt: list[int], slot: int, limit: int
    ) -> None:
        """`number` is that of the request, `limit` the most tokens that the answer may have."""
        sampling = request.sampling
        self.number, self.answer, self.slot = number, answer, slot
        self.prompt = prompt
        self.prefix: Prefix | None = None
        """The blocks of prompt and answer, if they go to the prefix cache."""
        self.row = Row(sampling, answer, prompt, request.grammar() if request.grammar else None)
        self._language, self._limit = language, limit
        self._ends = language.ends(request)
        self._blocks = PythonBlocks(language.tokenizer, language.markers) if sampling.calculator else None
        unfinished = b"".join(language.token_bytes[token] or b"\0" for token in prompt[-4:])
        self._text = AnswerText(
            language.token_bytes, language.markers.parts, sampling.stop, unfinished_character(unfinished)
        )

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.row.answer)

    def last_two(self) -> tuple[int, int]:
        """The last id and the one before it; there is an answer already."""
        answer = self.row.answer
        return answer[-1], answer[-2] if len(answer) > 1 else self.prompt[-1]

    def accept(self, token: int, logprob: TokenLogprob | None) -> Delta | None:
        """Appends a token that was sampled or forced; returns what is now released, if anything is."""
        row = self.row
        forced = bool(row.forced)
        if forced:
            row.forced.pop(0)
        elif token in self._ends:
            stop = self._text.flush()
            if stop is not None:
                return self._delta("stop", stop)
            if row.grammar is not None and token in self._language.markers.end and not row.grammar.complete:
                return self._delta("length")
            return self._delta("stop", None if token in self._language.markers.end else token, logprob)
        row.answer.append(token)
        if row.grammar is not None:
            row.grammar.accept(token)
        if self._blocks is not None:
            row.forced += self._blocks.step(token)
        stop = self._text.add(Written(token, forced, logprob))
        if stop is not None:
            return self._delta("stop", stop)
        if len(row.answer) >= self._limit:
            stop = self._text.flush()
            return self._delta("length" if stop is None else "stop", stop)
        return self._delta()

    def cancel(self) -> Delta:
        """Releases what is held back."""
        self._text.flush()
        delta = self._delta("cancelled")
        assert delta is not None
        return delta

    def _delta(
        self, finish: FinishReason | None = None, stopped_by: str | int | None = None, end: TokenLogprob | None = None
    ) -> Delta | None:
        written, parts = self._text.take()
        if not (written or parts or finish):
            return None
        return Delta(
            request=self.number,
            answer=self.answer,
            ids=tuple([token for token, _, _ in written]),
            forced=tuple([forced for _, forced, _ in written]),
            logprobs=_logprobs(written) if self.row.sampling.logprobs is not None else (),
            parts=tuple(parts),
            finish=finish,
            stopped_by=stopped_by,
            end=end,
        )


def _logprobs(written: Sequence[Written]) -> tuple[TokenLogprob, ...]:
    return tuple(logprob for _, _, logprob in written if logprob is not None)
