"""`POST /tokenize` and `POST /detokenize`, in vLLM's format."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest

from nanochat.serve.error_envelope import invalid
from nanochat.serve.logprob_formats import token_text
from nanochat.serve.openapi import RESPONSES
from nanochat.serve.prompts import chat_ids, text_ids
from nanochat.serve.schemas import DetokenizeBody, TokenizeBody
from nanochat.serve.serving import serving_of

router = APIRouter(responses=RESPONSES)


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, http: HttpRequest) -> dict[str, Any]:
    """The ids of a text, or of a conversation as the model gets it."""
    deployment = serving_of(http).models.find(body.model)
    tokenizer = deployment.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise invalid("Give either `prompt` or `messages`.", "prompt")
    if body.messages is not None:
        ids = chat_ids(tokenizer, body.messages)
    else:
        ids = text_ids(tokenizer, body.prompt or "")[0 if body.add_special_tokens in (None, True) else 1 :]
    return {
        "count": len(ids),
        "max_model_len": deployment.context_tokens,
        "tokens": ids,
        "token_strs": [token_text(tokenizer, token) for token in ids] if body.return_token_strs else None,
    }


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, http: HttpRequest) -> dict[str, str]:
    """The text of ids; special tokens are shown by their names."""
    tokenizer = serving_of(http).models.find(body.model).tokenizer
    if wrong := next((token for token in body.tokens if tokenizer.id_to_token(token) is None), None):
        raise invalid(f"`tokens` has the id {wrong}, which is not in the vocabulary.", "tokens")
    return {"prompt": tokenizer.decode(body.tokens)}
