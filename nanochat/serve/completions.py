"""`POST /v1/completions`: continues texts, or scores them.

    {"prompt": "The capital of France is", "max_tokens": 1, "echo": true, "logprobs": 1}
    {"choices": [{"index": 0, "text": "The capital of France is Paris", "logprobs": {"tokens": …, "token_logprobs": …,
      "top_logprobs": …, "text_offset": …}, "finish_reason": "length"}], "usage": …}

With `echo`, text and log-probabilities begin with the prompt, as the client sent it: a BOS that we added is not shown,
and then the first token has a log-probability too.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from nanochat.inference.request import Request, TokenLogprob
from nanochat.serve.access import cache_salt
from nanochat.serve.answer_pieces import Piece
from nanochat.serve.answering import PromptLogprobs, answer
from nanochat.serve.logprob_formats import CompletionLogprobs
from nanochat.serve.models import Deployment
from nanochat.serve.openapi import GENERATION_RESPONSES
from nanochat.serve.parameters import grammar_factory, refuse_unsupported, sampling_parameters
from nanochat.serve.prompts import completion_prompts
from nanochat.serve.schemas import CompletionBody
from nanochat.serve.serving import serving_of

router = APIRouter()


@router.post("/v1/completions", responses=GENERATION_RESPONSES)
async def completions(body: CompletionBody, http: HttpRequest) -> Response:
    """Continues one or more texts, or sequences of ids."""
    serving = serving_of(http)
    serving.refuse_if_draining()
    deployment = serving.models.find(body.model)
    refuse_unsupported(body)
    tokenizer = deployment.tokenizer
    prompts = completion_prompts(tokenizer, body)
    salt, grammar = cache_salt(http), await grammar_factory(body, tokenizer)
    requests = [
        Request(
            prompt=prompt, answers=body.n or 1, cache_salt=salt, grammar=grammar,
            sampling=sampling_parameters(body, deployment.context_tokens, len(prompt), tokenizer.vocab_size),
        )
        for prompt, _ in prompts
    ]  # fmt: skip
    model = serving.models.name(body.model)
    form = CompletionForm(body, model, deployment, [prompt[added:] for prompt, added in prompts])
    return await answer(http, serving, deployment, model, requests, form, bool(body.stream))


class CompletionForm:
    """Responses and chunks of completions."""

    def __init__(
        self, body: CompletionBody, model: str, deployment: Deployment, prompts: Sequence[Sequence[int]]
    ) -> None:
        self.answers = body.n or 1
        self.include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._body, self._tokenizer = body, deployment.tokenizer
        self._prompts = prompts
        """Without a BOS that the client did not send."""
        self._prompt_logprobs: dict[int, PromptLogprobs] = {}
        self._logprobs: dict[int, CompletionLogprobs] = {}
        """Choice → its log-probabilities, from its first piece on."""
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": deployment.fingerprint,
        }
        if self.include_usage:
            self._head["usage"] = None

    def begin(self) -> list[dict[str, Any]]:
        """Completions have no chunk before the first token."""
        return []

    def read_prompt(self, prompt: int, logprobs: PromptLogprobs) -> None:
        """Keeps the log-probabilities for `echo`, without that of an added BOS."""
        self._prompt_logprobs[prompt] = logprobs[len(logprobs) - len(self._prompts[prompt]) :]

    def chunks(self, choice: int, piece: Piece) -> list[dict[str, Any]] | None:
        """A chunk with what was added, and one with the end. Waits for the log-probabilities of an echoed prompt."""
        prompt = choice // self.answers
        if self._body.echo and self._body.logprobs is not None and prompt not in self._prompt_logprobs:
            return None
        chunks: list[dict[str, Any]] = []
        first = choice not in self._logprobs
        content = self._content(choice, piece)
        wants_ids = bool(self._body.return_token_ids and piece.ids)
        if content["text"] or piece.calculations or piece.logprobs or first or wants_ids:
            chunks.append(self._chunk({**content, "finish_reason": None}))
        if piece.finish is not None:
            end = {"index": choice, "text": "", "logprobs": None}
            chunks.append(self._chunk({**end, "finish_reason": piece.finish, "stop_reason": piece.stopped_by}))
        return chunks

    def _chunk(self, content: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "choices": [content]}

    def _content(self, choice: int, piece: Piece) -> dict[str, Any]:
        """The fields of a choice; with the prompt, if it is to be echoed and this is the first piece."""
        prompt = choice // self.answers
        first = choice not in self._logprobs
        formatted = self._logprobs.setdefault(choice, CompletionLogprobs(self._tokenizer))
        echo = first and bool(self._body.echo)
        content: dict[str, Any] = {
            "index": choice,
            "text": (self._tokenizer.decode(self._prompts[prompt]) if echo else "") + piece.text,
            "logprobs": None,
        }
        if self._body.logprobs is not None:
            tokens: list[tuple[int, TokenLogprob | None]] = [(each.token, each) for each in piece.logprobs]
            if echo:
                tokens = [*zip(self._prompts[prompt], self._prompt_logprobs[prompt], strict=True), *tokens]
            content["logprobs"] = formatted.take(tokens)
        if piece.calculations:
            content["calculator"] = piece.calculations
        if self._body.return_token_ids:
            content |= {"token_ids": piece.ids, "forced": piece.forced}
            if first:
                content["prompt_token_ids"] = list(self._prompts[prompt])
        return content

    def whole(self, pieces: Sequence[Piece], usage: dict[str, int]) -> dict[str, Any]:
        """The response."""
        choices = [
            {**self._content(choice, piece), "finish_reason": piece.finish, "stop_reason": piece.stopped_by}
            for choice, piece in enumerate(pieces)
        ]
        return {**self._head, "choices": choices, "usage": usage}

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The chunk without choices."""
        return {**self._head, "choices": [], "usage": usage}
