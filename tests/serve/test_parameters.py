"""Parameters: each is honoured, or refused by its name; null is the default."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nanochat.serve.schemas import ChatBody, CompletionBody
from tests.serve.models import ANSWER, CONTEXT
from tests.serve.servers import Running

BEYOND = (1 << 63, -(1 << 63) - 1, 10**400)


def error_of(response: Any, status: int = 400) -> dict[str, Any]:
    """The envelope of an error."""
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_limit_of_tokens_are_honoured(server: Running, name: str) -> None:
    (choice,) = server.chat(**{name: 2}).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (ANSWER[:2], "length")


@pytest.mark.parametrize("name", [name for name in ChatBody.model_fields if name not in ("messages", "temperature")])
def test_null_is_the_default_of_every_field_of_a_chat(server: Running, name: str) -> None:
    assert server.chat(**{name: None}).json()["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize(
    "name", [name for name in CompletionBody.model_fields if name not in ("prompt", "temperature")]
)
def test_null_is_the_default_of_every_field_of_a_completion(server: Running, name: str) -> None:
    assert server.complete("a", **{name: None}).json()["choices"][0]["text"] == "bcdeabcdeabcdeab"


def test_null_messages_and_prompts_are_refused(server: Running) -> None:
    assert error_of(server.http.post("/v1/chat/completions", json={"messages": None}))["param"] == "messages"
    assert error_of(server.http.post("/v1/completions", json={"prompt": None}))["param"] == "prompt"
    assert error_of(server.http.post("/v1/chat/completions", json={"messages": []}))["param"] == "messages"
    assert error_of(server.http.post("/v1/completions", json={"prompt": []}))["param"] == "prompt"


@pytest.mark.parametrize("value", BEYOND, ids=["int64+1", "-int64-1", "400 digits"])
@pytest.mark.parametrize(
    "name",
    ["n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty",
     "frequency_penalty", "repetition_penalty", "top_logprobs"],
)  # fmt: skip
def test_a_number_beyond_64_bits_is_refused(server: Running, name: str, value: int) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, name: value})
    response = server.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert error_of(response)["param"] == name


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", '"1"', "true", "[]", "9" * 5000])
def test_what_is_no_number_is_refused(server: Running, text: str) -> None:
    body = f'{{"messages": [{{"role": "user", "content": "Hi"}}], "temperature": {text}}}'
    error_of(server.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"}))


def test_an_unknown_field_is_ignored(server: Running) -> None:
    assert server.chat(no_such_field={"a": 1}, user="me", metadata={}, store=False).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]), ("functions", [{"name": "f"}]),
        ("tool_choice", "required"), ("function_call", {"name": "f"}), ("modalities", ["text", "audio"]),
        ("audio", {"voice": "a"}), ("web_search_options", {"a": 1}), ("stream_options", {"include_usage": True}),
        ("top_logprobs", 2), ("max_tokens", 0), ("n", 0), ("n", 10_000), ("temperature", 2.1), ("top_p", 1.1),
        ("stop", ["a"] * 100), ("stop", "a" * 1000), ("logit_bias", {"x": 1}), ("logit_bias", {"99999": 1}),
        ("logit_bias", {"-1": 1}), ("logit_bias", {"1": 1000}),
        ("response_format", {"type": "xml"}),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_its_name(server: Running, name: str, value: Any) -> None:
    assert error_of(server.chat(**{name: value}))["param"] == name


@pytest.mark.parametrize(
    ("name", "value"), [("tools", []), ("tool_choice", "none"), ("modalities", ["text"]), ("parallel_tool_calls", True),
                        ("response_format", {"type": "text"}), ("stop", []), ("stop", ""), ("logit_bias", {})],
    ids=str,
)  # fmt: skip
def test_values_that_change_nothing_pass(server: Running, name: str, value: Any) -> None:
    assert server.chat(**{name: value}).json()["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize(("name", "value"), [("suffix", "x"), ("best_of", 3)])
def test_what_a_completion_cannot_honour_is_refused(server: Running, name: str, value: Any) -> None:
    assert error_of(server.complete("a", **{name: value}))["param"] == name


def test_a_seed_gives_the_same_text_beside_unseeded_neighbours(server: Running) -> None:
    def sample(seed: int | None) -> str:
        answer = server.complete("?", temperature=2, top_k=0, seed=seed, max_tokens=30)
        return answer.json()["choices"][0]["text"]

    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(sample, [42, None, 7, None] * 8))
    seeded, others = texts[::4], [*texts[1::4], *texts[3::4]]
    assert len(set(seeded)) == 1
    assert len(set(texts[2::4])) == 1
    assert len(set(others)) > 3
    assert sample(-42) == sample(-42) != seeded[0]


def test_a_bias_forces_or_forbids_a_token(server: Running) -> None:
    assert server.chat(logit_bias={"111": -100}, max_tokens=1).json()["choices"][0]["message"]["content"] != "o"
    assert server.complete("a", logit_bias={"120": 100}, max_tokens=3).json()["choices"][0]["text"] == "xxx"


@pytest.mark.parametrize("stop", ["d", ["zz", "cd"], ["", "cd"]], ids=str)
def test_stop_strings_end_an_answer(server: Running, stop: Any) -> None:
    (choice,) = server.complete("a", stop=stop).json()["choices"]
    assert choice["text"] == ("bc" if stop == "d" else "b")
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": CONTEXT + 1}, "max_tokens"), ({"max_tokens": 10**15}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"messages": [{"role": "user", "content": "x" * CONTEXT}]}, "messages"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_longer_than_the_context_is_refused_and_the_engine_lives(
    server: Running, fields: dict[str, Any], param: str
) -> None:
    assert error_of(server.chat(**fields))["param"] == param
    assert server.chat().json()["choices"][0]["message"]["content"] == ANSWER


def test_an_answer_ends_at_the_end_of_the_context(server: Running) -> None:
    whole = server.complete("a", max_tokens=CONTEXT).json()
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["total_tokens"] == CONTEXT


def test_errors_have_the_envelope_of_openai(server: Running) -> None:
    error = error_of(server.chat(model="none"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert error_of(server.http.get("/v1/none"), 404)["code"] == "not_found"
    assert error_of(server.http.get("/v1/completions"), 405)["code"] == "method_not_allowed"
    for body in ("{", "", "[]", "1", "null", '"text"', '{"messages": "Hi"}', "[" * 100_000, b"\xff\xfe"):
        response = server.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        error_of(response)
    form = server.http.post("/v1/chat/completions", content="{}", headers={"content-type": "text/plain"})
    assert "application/json" in error_of(form)["message"]


def test_a_response_that_would_take_too_much_memory_is_refused(server: Running) -> None:
    prompts = ["a"] * 256
    assert "n" in error_of(server.complete(prompts, n=64, max_tokens=100, logprobs=20))["message"]
    assert "4,000,000" in error_of(server.complete(prompts, n=64, max_tokens=250, stream=True))["message"]
    assert server.complete(prompts, max_tokens=1, logprobs=20, echo=True).status_code == 200
