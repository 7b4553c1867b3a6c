"""Sends a server requests that are generated from its own OpenAPI description, valid ones and others.

python -m tests.serve.api_fuzz 10000
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from schemathesis.generation import GenerationMode

from nanochat.store.store import Store
from tests.serve.models import chain_model, publish
from tests.serve.servers import Running, running

ENVELOPE = {"message", "type", "param", "code"}
CONTEXT_TOKENS = 48
"""Short, so that no answer takes long."""


def small_store(folder: Path) -> Store:
    """A store with a model whose answers are short."""
    store = Store(str(folder / "store"), folder / "cache")
    model = chain_model(context_tokens=CONTEXT_TOKENS, width=64)
    publish(store, folder / "model", model, key="f" * 64, alias="chat/latest")
    return store


def fuzz(server: Running, cases: int, seed: int) -> Counter[int]:
    """Sends about this many requests; returns how often each status came. Raises `AssertionError` with a request."""
    description = server.http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    schema.config.update(base_url=server.address)
    operations = [result.ok() for result in schema.get_all_operations()]
    statuses: Counter[int] = Counter()

    def check(case: Any) -> None:
        response = case.call(timeout=300)
        statuses[response.status_code] += 1
        problem = problem_of(response)
        assert not problem, f"{problem}: {case.as_curl_command()}\n{response.status_code} {response.text[:500]}"

    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    weights = [6 if "completions" in operation.path else 1 for operation in operations]
    for operation, weight in zip(operations, weights, strict=True):
        for mode in modes:
            try:
                strategy = operation.as_strategy(generation_mode=mode)
                run(check, strategy, max(2, cases * weight // (2 * sum(weights))), seed)
            except hypothesis.errors.Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE, "every valid request can be generated"
    return statuses


def run(check: Any, strategy: Any, cases: int, seed: int) -> None:
    """Calls `check` with this many examples, the same for a seed."""
    wrapped = hypothesis.given(strategy)(check)
    options = hypothesis.settings(
        max_examples=cases, deadline=None, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    hypothesis.seed(seed)(options(wrapped))()


def problem_of(response: Any) -> str:
    """What is wrong with a response, or nothing."""
    if response.status_code >= 500:
        return "the server failed"
    if response.status_code >= 400:
        try:
            error = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            return "the error is not in the envelope"
        if error.keys() != ENVELOPE or not error["message"]:
            return "the envelope is not complete"
    elif '"server_error"' in response.text and "text/event-stream" in str(response.headers.get("content-type")):
        return "the stream failed"
    return ""


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, running(small_store(Path(folder))) as server:
        found = fuzz(server, int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
        print(f"{sum(found.values()):,} requests: {dict(sorted(found.items()))}")
