"""The chat page at `/`, and the lineage of a served model. Neither loads anything from elsewhere."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response

from nanochat.lineage.page import as_page
from nanochat.serve.error_envelope import ApiError
from nanochat.serve.openapi import RESPONSES
from nanochat.serve.serving import serving_of

PAGE = Path(__file__).parent / "page" / "index.html"
INLINE = re.compile(r"<(script|style)(?:\s[^>]*)?>(.*?)</\1>", re.DOTALL)
BASE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src 'self' data:"
COMMON = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}

router = APIRouter(responses=RESPONSES)


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The chat page."""
    text = PAGE.read_text(encoding="utf-8")
    return HTMLResponse(text, headers={**COMMON, "Content-Security-Policy": page_policy(text)})


@cache
def page_policy(text: str) -> str:
    """A content security policy that allows exactly the inline scripts and styles of a page, and this server."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    allowed = "; ".join(f"{kind}-src {' '.join(found) or chr(39) + 'none' + chr(39)}" for kind, found in hashes.items())
    return f"{BASE}; {allowed}; connect-src 'self'"


@router.get("/lineage/{stage}/{key}", include_in_schema=False)
async def lineage(stage: str, key: str, http: HttpRequest) -> Response:
    """Where a served model comes from, down to the raw text."""
    models = serving_of(http).models
    manifest = next(
        (each.artifact.manifest for each in models.by_name.values() if each.artifact.manifest.name == (stage, key)),
        None,
    )
    if manifest is None:
        raise ApiError(404, "This server has no such model.", code="not_found")
    text = await asyncio.to_thread(as_page, models.store, manifest)
    return HTMLResponse(text, headers={**COMMON, "Content-Security-Policy": f"{BASE}; style-src 'unsafe-inline'"})
