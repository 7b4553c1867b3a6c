"""`POST /v1/chat/completions`: the next message of a conversation.

    {"messages": [{"role": "user", "content": "What is 3 plus 4?"}]}
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "3 plus 4 is 7.",
      "calculator": [{"expression": "3+4", "result": "7", "offset": 0}]}, "finish_reason": "stop"}], "usage": …}

`calculator`, beyond OpenAI's format, has the calculations of the answer, so that `content` is only text. A message with
this field can be sent back as it is.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from nanochat.inference.request import Request
from nanochat.serve.access import cache_salt
from nanochat.serve.answer_pieces import Piece
from nanochat.serve.answering import PromptLogprobs, answer
from nanochat.serve.logprob_formats import chat_logprobs
from nanochat.serve.models import Deployment
from nanochat.serve.openapi import GENERATION_RESPONSES
from nanochat.serve.parameters import grammar_factory, refuse_unsupported, sampling_parameters
from nanochat.serve.prompts import chat_ids
from nanochat.serve.schemas import ChatBody
from nanochat.serve.serving import serving_of

router = APIRouter()


@router.post("/v1/chat/completions", responses=GENERATION_RESPONSES)
async def chat_completions(body: ChatBody, http: HttpRequest) -> Response:
    """Answers the last message of a conversation."""
    serving = serving_of(http)
    serving.refuse_if_draining()
    deployment = serving.models.find(body.model)
    refuse_unsupported(body)
    tokenizer = deployment.tokenizer
    prompt = chat_ids(tokenizer, body.messages)
    sampling = sampling_parameters(body, deployment.context_tokens, len(prompt), tokenizer.vocab_size)
    request = Request(
        prompt=prompt, sampling=sampling, answers=body.n or 1, cache_salt=cache_salt(http),
        grammar=await grammar_factory(body, tokenizer),
    )  # fmt: skip
    model = serving.models.name(body.model)
    form = ChatForm(body, model, deployment, prompt)
    return await answer(http, serving, deployment, model, [request], form, bool(body.stream))


class ChatForm:
    """Responses and chunks of chat completions."""

    def __init__(self, body: ChatBody, model: str, deployment: Deployment, prompt: Sequence[int]) -> None:
        self.answers = body.n or 1
        self.include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._body, self._tokenizer, self._prompt = body, deployment.tokenizer, prompt
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": deployment.fingerprint,
        }
        if self.include_usage:
            self._head["usage"] = None

    def begin(self) -> list[dict[str, Any]]:
        """The role of each choice."""
        chunks = [self._chunk(choice, {"role": "assistant", "content": ""}) for choice in range(self.answers)]
        if self._body.return_token_ids:
            chunks[0]["prompt_token_ids"] = list(self._prompt)
        return chunks

    def read_prompt(self, prompt: int, logprobs: PromptLogprobs) -> None:
        """Chat completions have no log-probabilities of the prompt."""

    def chunks(self, choice: int, piece: Piece) -> list[dict[str, Any]]:
        """A chunk with what was added, and one with the end."""
        chunks: list[dict[str, Any]] = []
        wants_ids = bool(self._body.return_token_ids and piece.ids)
        if piece.text or piece.calculations or piece.logprobs or wants_ids:
            delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
            if piece.calculations:
                delta["calculator"] = piece.calculations
            chunks.append(self._chunk(choice, delta, piece))
        if piece.finish is not None:
            chunks.append(self._chunk(choice, {}, finish=piece))
        return chunks

    def _chunk(
        self, choice: int, delta: dict[str, Any], piece: Piece | None = None, finish: Piece | None = None
    ) -> dict[str, Any]:
        content: dict[str, Any] = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}
        if piece is not None:
            content |= self._tokens(piece)
        if finish is not None:
            content |= {"finish_reason": finish.finish, "stop_reason": finish.stopped_by}
        return {**self._head, "choices": [content]}

    def _tokens(self, piece: Piece) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self._body.logprobs:
            fields["logprobs"] = chat_logprobs(self._tokenizer, piece.logprobs)
        if self._body.return_token_ids:
            fields |= {"token_ids": piece.ids, "forced": piece.forced}
        return fields

    def whole(self, pieces: Sequence[Piece], usage: dict[str, int]) -> dict[str, Any]:
        """The response."""
        choices: list[dict[str, Any]] = []
        for index, piece in enumerate(pieces):
            message: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None}
            if piece.calculations:
                message["calculator"] = piece.calculations
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": None,
                    **self._tokens(piece),
                    "finish_reason": piece.finish,
                    "stop_reason": piece.stopped_by,
                }
            )
        response = {**self._head, "choices": choices, "usage": usage}
        return response | ({"prompt_token_ids": list(self._prompt)} if self._body.return_token_ids else {})

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The chunk without choices."""
        return {**self._head, "choices": [], "usage": usage}
