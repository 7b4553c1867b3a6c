"""Answers a request with one response, or with a stream of events, in the form of either endpoint.

A client that hangs up cancels its answers, in every phase of both.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from nanochat.errors import NanochatError
from nanochat.inference.request import Request, TokenLogprob
from nanochat.serve.answer_pieces import AnswerPieces, Marks, Piece
from nanochat.serve.error_envelope import as_api_error, invalid
from nanochat.serve.generation import Generation, Step
from nanochat.serve.limits import MAX_ENTRIES, SEND_TIMEOUT_S, STREAM_INTERVAL_S, WHOLE_INTERVAL_S
from nanochat.serve.models import Deployment
from nanochat.serve.serving import Serving

LOG = logging.getLogger("nanochat.serve")
DONE = b"data: [DONE]\n\n"
CLIENT_CLOSED_REQUEST = 499
"""The status that nginx logs; no client reads it."""
PromptLogprobs = tuple[TokenLogprob | None, ...]


class Form(Protocol):
    """How one endpoint writes its response."""

    answers: int
    """Choices of each prompt."""
    include_usage: bool
    """Whether a stream ends with a chunk about the number of tokens."""

    def begin(self) -> list[dict[str, Any]]:
        """Chunks before the first token."""
        ...

    def read_prompt(self, prompt: int, logprobs: PromptLogprobs) -> None:
        """Takes the log-probabilities of a prompt."""
        ...

    def chunks(self, choice: int, piece: Piece) -> list[dict[str, Any]] | None:
        """The chunks for a piece; None if it has to wait for more."""
        ...

    def whole(self, pieces: Sequence[Piece], usage: dict[str, int]) -> dict[str, Any]:
        """The response for complete answers."""
        ...

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk."""
        ...


@dataclass
class _Progress:
    """The choices of a request while they are generated."""

    form: Form
    marks: Marks
    prompt_tokens: int
    readers: dict[int, AnswerPieces] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    """Choice → number of its tokens."""
    reasons: dict[int, Any] = field(default_factory=dict)

    def take(self, step: Step, pieces: dict[int, Piece]) -> None:
        """Adds a step's deltas to the pieces."""
        for prompt, delta in step:
            if delta.prompt_logprobs:
                self.form.read_prompt(prompt, delta.prompt_logprobs)
            choice = prompt * self.form.answers + delta.answer
            if choice not in pieces:
                pieces[choice] = Piece()
            if choice not in self.readers:
                self.readers[choice] = AnswerPieces(self.marks)
            self.readers[choice].add(pieces[choice], delta)
            self.tokens[choice] = self.tokens.get(choice, 0) + len(delta.ids)
            if delta.finish is not None:
                self.reasons[choice] = delta.finish

    @property
    def usage(self) -> dict[str, int]:
        generated = sum(self.tokens.values())
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self.prompt_tokens + generated,
        }


async def answer(
    http: HttpRequest,
    serving: Serving,
    deployment: Deployment,
    model: str,
    requests: Sequence[Request],
    form: Form,
    stream: bool,
) -> Response:
    """Generates the answers to the prompts. Raises what the engine refuses, before a stream begins."""
    began = time.monotonic()
    _limit(requests)
    generation = deployment.submit(requests, STREAM_INTERVAL_S if stream else WHOLE_INTERVAL_S)
    headers = {"x-nanochat-artifact": deployment.reference}
    progress = _Progress(form, deployment.marks, sum(len(request.prompt) for request in requests))

    def ended() -> None:
        generation.cancel()
        deployment.finished(began)
        answers = [(progress.tokens.get(choice, 0), reason) for choice, reason in progress.reasons.items()]
        if answers:
            first_s = None if generation.first_delta_at is None else generation.first_delta_at - began
            serving.metrics.count_request(
                model, prompt_tokens=progress.prompt_tokens, answers=answers, first_s=first_s,
                whole_s=time.monotonic() - began,
            )  # fmt: skip

    try:
        await generation.accepted()
        if stream:
            return AnswerStream(_events(generation, progress), headers, ended)
        response = await _whole(http, generation, progress, headers)
    except BaseException:
        ended()
        raise
    ended()
    return response


def _limit(requests: Sequence[Request]) -> None:
    """Raises `ApiError` if the answers may take more memory than one client gets: what it does not read is kept."""
    entries = 0
    for request in requests:
        sampling = request.sampling
        entries += request.answers * sampling.max_tokens * (1 + (sampling.logprobs or 0))
        if sampling.prompt_logprobs is not None:
            entries += len(request.prompt) * (1 + sampling.prompt_logprobs)
    if entries > MAX_ENTRIES:
        raise invalid(
            f"The answers may have {entries:,} tokens and log-probabilities; at most {MAX_ENTRIES:,} are allowed. Send"
            " fewer prompts, or lower `n`, `max_tokens` or `logprobs`."
        )


async def _whole(http: HttpRequest, generation: Generation, progress: _Progress, headers: dict[str, str]) -> Response:
    """Waits for the answers, or until the client hangs up."""
    pieces: dict[int, Piece] = {}

    async def collect() -> None:
        async for step in generation:
            progress.take(step, pieces)

    collecting, leaving = asyncio.create_task(collect()), asyncio.create_task(_hung_up(http.receive))
    try:
        await asyncio.wait((collecting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        await collecting
    finally:
        collecting.cancel()
        leaving.cancel()
    complete = [pieces[choice] for choice in sorted(pieces)]
    return JSONResponse(progress.form.whole(complete, progress.usage), headers=headers)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _events(generation: Generation, progress: _Progress) -> AsyncIterator[bytes]:
    """The stream: what a step of the generation added is one write. An error is the last event."""
    form = progress.form
    if begin := form.begin():
        yield _encode(begin)
    pieces: dict[int, Piece] = {}
    try:
        async for step in generation:
            progress.take(step, pieces)
            written: list[dict[str, Any]] = []
            for choice in list(pieces):
                chunks = form.chunks(choice, pieces[choice])
                if chunks is not None:
                    written += chunks
                    del pieces[choice]
            if written:
                yield _encode(written)
    except NanochatError as error:
        yield _encode([as_api_error(error).body()])
        return
    if form.include_usage:
        yield _encode([form.usage_chunk(progress.usage)])
    yield DONE


_COMPACT = json.JSONEncoder(separators=(",", ":"))


def _encode(chunks: Sequence[dict[str, Any]]) -> bytes:
    """Events. JSON is in ASCII, so no line separator of Unicode is in it."""
    return "".join(f"data: {_COMPACT.encode(chunk)}\n\n" for chunk in chunks).encode("ascii")


class AnswerStream(EventSourceResponse):
    """A stream of events that frees the slots when it ends, for whatever reason."""

    def __init__(self, events: AsyncIterator[bytes], headers: dict[str, str], ended: Callable[[], None]) -> None:
        super().__init__(events, headers=headers, send_timeout=SEND_TIMEOUT_S, sep="\n")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            LOG.warning("A client read nothing for %.0f s; its connection is closed.", SEND_TIMEOUT_S)
        finally:
            self._ended()
