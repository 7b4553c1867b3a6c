"""Chat completions as OpenAI's clients read them: sync, async, streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.serve.models import ANSWER, TOKENIZER
from tests.serve.servers import Running

HI: list[Any] = [{"role": "user", "content": "Hi"}]


def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def events(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream, which ends with `[DONE]`."""
    lines = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_the_client_reads_a_whole_answer(server: Running) -> None:
    with client(server) as api:
        raw = api.chat.completions.with_raw_response.create(model="chat/latest", messages=HI, temperature=0)
        answer = raw.parse()
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(TOKENIZER.encode(ANSWER))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert raw.headers["x-nanochat-artifact"] == f"sft/{'0' * 64}"
    assert answer.model == "chat/latest"


def test_the_client_reads_a_stream_that_joined_is_the_whole_answer(server: Running) -> None:
    with client(server) as api:
        chunks = list(api.chat.completions.create(model="chat/latest", messages=HI, temperature=0, stream=True))
    contents = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(contents) == ANSWER
    assert not any("�" in content for content in contents)
    assert len([content for content in contents if content]) > 1  # a busy server may send two tokens in one chunk
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])


def test_the_async_client_reads_many_streams_at_once(server: Running) -> None:
    async def one(api: openai.AsyncOpenAI) -> str:
        stream = await api.chat.completions.create(model="chat/latest", messages=HI, temperature=0, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def many() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none") as api:
            return await asyncio.gather(*(one(api) for _ in range(50)))

    assert asyncio.run(many()) == [ANSWER] * 50


@pytest.mark.parametrize("n", [1, 3])
def test_each_choice_has_one_finish_reason_and_its_index_on_every_chunk(server: Running, n: int) -> None:
    chunks = events(server.chat(stream=True, n=n).text)
    choices = [chunk["choices"][0] for chunk in chunks]
    for index in range(n):
        of_one = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in of_one) == ANSWER
        assert [choice["finish_reason"] for choice in of_one] == [None] * (len(of_one) - 1) + ["stop"]
    assert {choice["index"] for choice in choices} == set(range(n))
    assert [choice["index"] for choice in server.chat(n=n).json()["choices"]] == list(range(n))


def test_a_stream_has_usage_only_if_it_is_wanted_and_then_in_a_last_chunk_without_choices(server: Running) -> None:
    assert not any("usage" in chunk for chunk in events(server.chat(stream=True).text))
    chunks = events(server.chat(stream=True, stream_options={"include_usage": True}).text)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == server.chat().json()["usage"]
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks[:-1])


def test_events_are_ascii_so_that_no_separator_of_unicode_splits_them(server: Running) -> None:
    response = server.chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.content.isascii()


def test_calculations_are_beside_the_text_and_can_be_sent_back(server: Running) -> None:
    history = [{"role": "user", "content": "3+4?"}, {"role": "assistant", "content": "I think ="}]
    whole = server.http.post("/v1/chat/completions", json={"messages": history, "temperature": 0}).json()
    message = whole["choices"][0]["message"]
    assert message["content"] == "ABCD"
    assert message["calculator"] == [{"expression": "3+4", "result": "7", "offset": 0}]
    body = {"messages": history, "temperature": 0, "stream": True, "logprobs": True}
    choices = [chunk["choices"][0] for chunk in events(server.http.post("/v1/chat/completions", json=body).text)]
    found = [each for choice in choices for each in choice["delta"].get("calculator", [])]
    assert found == message["calculator"]
    tokens = [each["token"] for choice in choices for each in (choice["logprobs"] or {}).get("content", [])]
    assert "".join(tokens) == "ABCD"
    again = [{"role": "user", "content": "3+4?"}, message, {"role": "user", "content": "Thanks"}]
    shown = server.http.post("/tokenize", json={"messages": again}).json()["tokens"]
    assert "<|python_start|>3+4<|python_end|><|output_start|>7<|output_end|>ABCD<|assistant_end|>" in (
        TOKENIZER.decode(shown)
    )


def test_log_probabilities_of_half_a_character_have_its_true_bytes(server: Running) -> None:
    content = server.chat(logprobs=True, top_logprobs=3).json()["choices"][0]["logprobs"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == ANSWER
    assert [token["token"] for token in content][:4] == ["o", "k", " ", "bytes:\\xc4"]
    assert all(len(token["top_logprobs"]) == 3 for token in content)
    assert all(token["top_logprobs"][0]["logprob"] == token["logprob"] <= 0 for token in content)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_text_and_ids_stay_aligned_at_a_stop_string(server: Running, stream: bool) -> None:
    response = server.chat(stop="ď😀", logprobs=True, return_token_ids=True, stream=stream)
    if stream:
        choices = [chunk["choices"][0] for chunk in events(response.text)]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        tokens = [each for choice in choices for each in (choice["logprobs"] or {}).get("content", [])]
        ids = [token for choice in choices for token in choice.get("token_ids", [])]
        assert choices[-1]["stop_reason"] == "ď😀"
    else:
        (choice,) = response.json()["choices"]
        text, tokens, ids = choice["message"]["content"], choice["logprobs"]["content"], choice["token_ids"]
        assert choice["stop_reason"] == "ď😀"
    assert text == "ok "
    assert bytes(byte for token in tokens for byte in token["bytes"]).decode() == text
    assert TOKENIZER.decode(ids) == text


def test_raw_and_scaled_log_probabilities_differ(server: Running) -> None:
    def first(**fields: Any) -> float:
        answer = server.chat(logprobs=True, max_tokens=1, temperature=0.5, top_k=1, **fields)
        return answer.json()["choices"][0]["logprobs"]["content"][0]["logprob"]

    assert first(scaled_logprobs=True) == pytest.approx(0, abs=1e-5)
    assert first(scaled_logprobs=False) < -5e-5


def test_ids_of_prompt_and_answer_are_returned(server: Running) -> None:
    whole = server.chat(return_token_ids=True).json()
    assert TOKENIZER.decode(whole["choices"][0]["token_ids"]) == ANSWER
    assert whole["choices"][0]["forced"] == [False] * len(TOKENIZER.encode(ANSWER))
    assert whole["prompt_token_ids"][0] == TOKENIZER.bos
    assert whole["prompt_token_ids"].count(TOKENIZER.bos) == 1
    assert "prompt_token_ids" not in server.chat().json()


def test_the_models_are_listed_with_artifact_digest_and_lineage(server: Running) -> None:
    with client(server) as api:
        (model,) = api.models.list().data
        assert api.models.retrieve("chat/latest").id == model.id == "chat/latest"
        with pytest.raises(openai.NotFoundError):
            api.models.retrieve("none")
    extra = model.model_extra or {}
    assert extra["artifact"] == f"sft/{'0' * 64}"
    assert len(extra["digest"]) == 64
    assert extra["max_model_len"] == 256
    page = server.http.get(extra["lineage"])
    assert page.status_code == 200
    assert "sft 00000000" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert server.http.get("/lineage/sft/other").status_code == 404
