"""Completions: texts and ids, echo and log-probabilities as evaluators need them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import torch

from tests.serve.models import TOKENIZER, chain_model
from tests.serve.servers import Running
from tests.serve.test_chat_completions import events
from tests.serve.test_parameters import error_of

TEXT = "abcdeď😀 end"


def expected_logprobs(text: str) -> list[float]:
    """Of each token of a text, after BOS: from a plain forward pass."""
    ids = [TOKENIZER.bos, *TOKENIZER.encode(text)]
    with torch.no_grad():
        logprobs = chain_model()(torch.tensor([ids]))[0].log_softmax(-1)
    return [float(logprobs[place, token]) for place, token in enumerate(ids[1:])]


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("as_ids", [False, True, "with BOS"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_has_the_log_probabilities_of_the_prompt(
    server: Running, max_tokens: int, as_ids: bool | str, stream: bool
) -> None:
    ids = TOKENIZER.encode(TEXT)
    bos = [TOKENIZER.bos] if as_ids == "with BOS" else []
    prompt: Any = [*bos, *ids] if as_ids else TEXT
    response = server.complete(prompt, max_tokens=max_tokens, echo=True, logprobs=1, stream=stream)
    if stream:
        choices = [chunk["choices"][0] for chunk in events(response.text)]
        assert [choice["finish_reason"] for choice in choices][-1] == "length"
        text = "".join(choice["text"] for choice in choices)
        logprobs: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for choice in choices:
            for name, values in (choice["logprobs"] or {}).items():
                logprobs[name] += values
    else:
        (choice,) = response.json()["choices"]
        text, logprobs = choice["text"], choice["logprobs"]
    shown = TOKENIZER.decode(bos) + TEXT
    assert text.startswith(shown)
    assert all(len(values) == len(bos) + len(ids) + max_tokens for values in logprobs.values())
    found = logprobs["token_logprobs"]
    if bos:
        assert found[0] is None
        assert logprobs["top_logprobs"][0] is None
    assert found[len(bos) : len(bos) + len(ids)] == pytest.approx(expected_logprobs(TEXT), abs=1e-4)
    for place, offset in enumerate(logprobs["text_offset"][len(bos) : len(bos) + 5]):
        assert text[offset] == TEXT[place]
    assert logprobs["tokens"][len(bos) + 5 : len(bos) + 7] == ["bytes:\\xc4", "bytes:\\x8f"]


def test_the_most_likely_token_is_found_as_evaluators_find_it(server: Running) -> None:
    logprobs = server.complete("abcde", max_tokens=1, echo=True, logprobs=1).json()["choices"][0]["logprobs"]
    greedy = [
        value == max(top.values())
        for value, top in zip(logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    ]
    assert greedy == [False, True, True, True, True, True]


def test_log_probabilities_without_an_echo_are_those_of_the_answer(server: Running) -> None:
    logprobs = server.complete("a", max_tokens=3, logprobs=2).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["b", "c", "d"]
    assert logprobs["text_offset"] == [0, 1, 2]
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])


@pytest.mark.parametrize("as_ids", [False, True])
def test_several_prompts_with_several_answers_have_their_indices(server: Running, as_ids: bool) -> None:
    prompts: list[Any] = ["a", "c", "e"]
    if as_ids:
        prompts = [TOKENIZER.encode(prompt) for prompt in prompts]
    whole = server.complete(prompts, n=2, max_tokens=2).json()
    assert [choice["text"] for choice in whole["choices"]] == ["bc", "bc", "de", "de", "ab", "ab"]
    assert [choice["index"] for choice in whole["choices"]] == list(range(6))
    assert whole["usage"] == {"prompt_tokens": 6, "completion_tokens": 12, "total_tokens": 18}
    chunks = [chunk["choices"][0] for chunk in events(server.complete(prompts, n=2, max_tokens=2, stream=True).text)]
    for index, text in enumerate(["bc", "bc", "de", "de", "ab", "ab"]):
        of_one = [choice for choice in chunks if choice["index"] == index]
        assert "".join(choice["text"] for choice in of_one) == text
        assert [choice["finish_reason"] for choice in of_one] == [None] * (len(of_one) - 1) + ["length"]


def test_every_answer_of_an_echoed_prompt_has_its_log_probabilities(server: Running) -> None:
    chunks = [
        chunk["choices"][0]
        for chunk in events(server.complete("abc", n=3, max_tokens=2, echo=True, logprobs=0, stream=True).text)
    ]
    for index in range(3):
        of_one = [choice for choice in chunks if choice["index"] == index]
        assert "".join(choice["text"] for choice in of_one) == "abcde"
        assert [token for choice in of_one for token in (choice["logprobs"] or {}).get("tokens", [])] == list("abcde")


def test_the_client_of_openai_reads_both(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as api:
        whole = api.completions.create(model="chat/latest", prompt="a", max_tokens=4, temperature=0)
        assert whole.choices[0].text == "bcde"
        stream = api.completions.create(model="chat/latest", prompt="a", max_tokens=4, temperature=0, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == "bcde"


def test_a_prompt_that_ends_inside_a_character_is_not_repeated(server: Running) -> None:
    prompt = TOKENIZER.encode("ď")[:1]
    assert not server.complete(prompt, max_tokens=3).json()["choices"][0]["text"].startswith("\ufffd")


@pytest.mark.parametrize("prompt", [[99_999], [[1], [-1]], [[1], ["a"]], [None], {}, 1, [[1.5]]], ids=str)
def test_a_prompt_that_is_none_is_refused(server: Running, prompt: Any) -> None:
    assert error_of(server.complete(prompt))["param"] == "prompt"


def test_texts_become_ids_and_ids_texts(server: Running) -> None:
    found = server.http.post("/tokenize", json={"prompt": TEXT, "return_token_strs": True}).json()
    assert found["tokens"] == [TOKENIZER.bos, *TOKENIZER.encode(TEXT)]
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 256
    bare = server.http.post("/tokenize", json={"prompt": TEXT, "add_special_tokens": False}).json()["tokens"]
    assert bare == TOKENIZER.encode(TEXT)
    assert server.http.post("/detokenize", json={"tokens": bare}).json() == {"prompt": TEXT}
    assert error_of(server.http.post("/detokenize", json={"tokens": [99_999]}))["param"] == "tokens"
    assert error_of(server.http.post("/tokenize", json={}))["param"] == "prompt"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_must_be_json_is_json(server: Running, stream: bool) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    response = server.chat(response_format=wanted, stream=stream)
    if stream:
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events(response.text))
    else:
        text = response.json()["choices"][0]["message"]["content"]
    assert json.loads(text)["n"] in (1, 2)


@pytest.mark.parametrize(
    "wanted",
    [{"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}],
    ids=str,
)
def test_a_schema_that_cannot_be_enforced_is_refused(server: Running, wanted: Any) -> None:
    assert error_of(server.chat(response_format=wanted))["param"] == "response_format"


def test_a_prompt_is_scored_with_one_more_token_even_if_that_is_an_end(server: Running) -> None:
    """Evaluators cut off the last token, whatever it is: without it, they would lose the prompt's last one."""
    prompt = TOKENIZER.encode("ok ď😀!")
    ends = server.complete(prompt, max_tokens=2).json()["choices"][0]
    assert (ends["text"], ends["finish_reason"]) == ("", "stop")
    (choice,) = server.complete(prompt, max_tokens=1, echo=True, logprobs=1).json()["choices"]
    assert len(choice["logprobs"]["token_logprobs"]) == len(prompt) + 1
    assert choice["logprobs"]["tokens"][-1] == "<|assistant_end|>"
