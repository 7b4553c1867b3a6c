"""Answers in a running batch equal those alone and those without a cache, and end where they should."""

from __future__ import annotations

from typing import Any

import pytest

from nanochat.errors import BadConfig
from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.request import Delta, Part, Request, SamplingParameters
from nanochat.tokenizer.bpe import Tokenizer
from tests.inference.models import PROMPTS, TOKENIZER, built, greedy, ids_of, scripted, tokens_of, without_cache

BOS = TOKENIZER.bos


@pytest.mark.parametrize(
    "options", [{}, {"queries_per_kv_head": 5}, {"smear": False}, {"window_pattern": "S"}], ids=str
)
def test_a_batch_of_unequal_prompts_equals_each_alone_without_a_cache(options: dict[str, Any]) -> None:
    model = built(**options)
    together = Engine(model, TOKENIZER).complete([greedy(prompt) for prompt in PROMPTS])
    assert ids_of(together) == [without_cache(model, prompt, 12) for prompt in PROMPTS]


def test_windows_hold_while_decoding() -> None:
    model = built(sequence_len=512, window_pattern="S")
    assert 128 in model.architecture.windows()
    prompts = [[BOS, *[t % 200 for t in range(180)]], [BOS, 7]]
    answers = Engine(model, TOKENIZER).complete([greedy(prompt, 6) for prompt in prompts])
    assert ids_of(answers) == [without_cache(model, prompt, 6) for prompt in prompts]


def test_more_requests_than_slots_all_get_their_answers() -> None:
    model = built()
    prompts = [[BOS, number, 3 * number] for number in range(9)]
    engine = Engine(model, TOKENIZER, EngineSettings(slots=2, prefill_chunk_tokens=4))
    answers = engine.complete([greedy(prompt, 3 + number) for number, prompt in enumerate(prompts)])
    assert ids_of(answers) == [without_cache(model, prompt, 3 + n) for n, prompt in enumerate(prompts)]


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("prefix_cache_tokens", [0, 8192])
def test_answers_of_one_prompt_differ_and_their_prompt_is_computed_once(slots: int, prefix_cache_tokens: int) -> None:
    sampling = SamplingParameters(max_tokens=10, temperature=1.0, seed=3, ignore_end=True)
    prompt = [BOS, *range(50)]
    settings = EngineSettings(slots=slots, prefix_cache_tokens=prefix_cache_tokens, prefill_chunk_tokens=24)
    engine = Engine(built(), TOKENIZER, settings)
    (answers,) = engine.complete([Request(prompt=prompt, sampling=sampling, answers=5)])
    assert engine.statistics.prompt_tokens_computed == len(prompt)
    assert len({answer.ids for answer in answers}) == 5
    (alone,) = Engine(built(), TOKENIZER).complete([Request(prompt=prompt, sampling=sampling, answers=5)])
    assert alone == answers


def test_streaming_gives_what_completing_gives() -> None:
    engine = Engine(built(), TOKENIZER)
    for temperature, top_k in ((0.0, 0), (1.0, 5)):
        request = greedy(PROMPTS[0], 20, temperature=temperature, top_k=top_k, seed=3)
        ((whole,),) = engine.complete([request])
        deltas = list(engine.stream(request))
        assert [token for delta in deltas for token in delta.ids] == list(whole.ids)
        assert "".join(part.text for delta in deltas for part in delta.parts) == whole.text
        assert [delta.finish for delta in deltas][-1] == "length"


def test_the_seed_decides() -> None:
    engine = Engine(built(), TOKENIZER)
    one, same, other = (
        engine.complete([greedy(prompt, 20, temperature=1.0, seed=seed) for prompt in PROMPTS]) for seed in (1, 1, 2)
    )
    assert one == same != other


@pytest.mark.parametrize("stop", ["<|assistant_end|>", "<|bos|>"])
def test_an_answer_ends_before_the_token_that_stops_it(stop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, tokens_of("Ada.", stop, "more"))
    ((answer,),) = engine.complete([Request(prompt=[BOS])])
    assert (answer.text, answer.finish, answer.stopped_by) == ("Ada.", "stop", None)
    assert list(answer.ids) == tokens_of("Ada.")


@pytest.mark.parametrize("token", ["<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|output_end|>"])
def test_a_token_of_the_chat_template_inside_an_answer_ends_it(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, tokens_of("Ada.", token, "more"))
    ((answer,),) = engine.complete([Request(prompt=[BOS])])
    assert (answer.text, answer.finish, answer.stopped_by) == ("Ada.", "stop", TOKENIZER.special(token))


def test_a_sum_is_evaluated_and_the_result_is_inserted(monkeypatch: pytest.MonkeyPatch) -> None:
    block = tokens_of("<|python_start|>", "12*3", "<|python_end|>")
    # The script does not know the result: forced tokens replace its four.
    engine = scripted(monkeypatch, [*block, *tokens_of("xxxx"), *tokens_of(" so", "<|assistant_end|>")])
    ((answer,),) = engine.complete([Request(prompt=[BOS])])
    output = tokens_of("<|output_start|>", "36", "<|output_end|>")
    assert list(answer.ids) == [*block, *output, *tokens_of(" so")]
    assert answer.forced == (*[False] * len(block), *[True] * len(output), False, False, False)
    assert answer.parts == (Part("python", "12*3"), Part("python_output", "36"), Part("text", " so"))


@pytest.mark.parametrize("block", ["import os", "", "1/0", "1" * 300])
def test_a_block_that_is_no_expression_has_no_result(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tokens_of("<|python_start|>", block, "<|python_end|>", "?", "<|assistant_end|>")
    ((answer,),) = scripted(monkeypatch, output, settings=EngineSettings(context_tokens=512)).complete(
        [Request(prompt=[BOS], sampling=SamplingParameters(max_tokens=400))]
    )
    assert list(answer.ids) == output[:-1]


def test_cancelling_frees_the_slots_before_the_next_step_computes() -> None:
    engine = Engine(built(), TOKENIZER, EngineSettings(slots=1))
    first, second = engine.submit(greedy(PROMPTS[0], 50)), engine.submit(greedy(PROMPTS[2], 2))
    engine.step()
    assert (engine.statistics.running, engine.statistics.waiting) == (1, 1)
    engine.cancel(first)
    assert engine.statistics.running == 0
    assert [delta.finish for delta in engine.step() if delta.request == first] == ["cancelled"]
    assert (engine.statistics.running, engine.statistics.waiting) == (1, 0)
    deltas = [engine.step() for _ in iter(lambda: engine.has_work, False)]
    assert {delta.request for step in deltas for delta in step} == {second}


def test_a_cancelled_request_that_waits_ends_too() -> None:
    engine = Engine(built(), TOKENIZER, EngineSettings(slots=1))
    engine.submit(greedy(PROMPTS[0], 1))
    waiting = engine.submit(Request(prompt=PROMPTS[1], answers=2))
    engine.cancel(waiting)
    assert engine.step()[:2] == [Delta(request=waiting, answer=n, finish="cancelled") for n in (0, 1)]
    assert not engine.has_work
    engine.cancel(waiting)
    assert not engine.has_work


def test_closing_a_stream_cancels_its_request() -> None:
    engine = Engine(built(), TOKENIZER)
    stream = engine.stream(greedy(PROMPTS[0], 50))
    next(iter(stream))
    stream.close()
    assert not engine.has_work
    assert engine.statistics.running == 0


@pytest.mark.parametrize("prompt", [[], [BOS] * 256, [-1], [999]])
def test_a_prompt_that_cannot_be_answered_is_refused_before_anything_is_queued(prompt: list[int]) -> None:
    engine = Engine(built(), TOKENIZER)
    with pytest.raises(BadConfig, match="prompt"):
        engine.complete([greedy(PROMPTS[0]), greedy(prompt)])
    assert not engine.has_work


def test_an_answer_ends_at_the_end_of_the_context() -> None:
    model = built(sequence_len=24)
    ((answer,),) = Engine(model, TOKENIZER).complete([greedy(PROMPTS[0], 10**18)])
    assert list(answer.ids) == without_cache(model, PROMPTS[0], 19)
    assert answer.finish == "length"


def test_replacing_the_model_drops_what_was_cached() -> None:
    one, other = built(), built(seed=5)
    engine = Engine(one, TOKENIZER)
    request = greedy([BOS, *range(60)])
    engine.complete([request])
    engine.replace_model(other)
    assert engine.statistics.cache_tokens == 0
    assert ids_of(engine.complete([request])) == [without_cache(other, request.prompt, 12)]


def test_the_vocabulary_of_another_model_is_refused() -> None:
    with pytest.raises(BadConfig, match="vocabulary"):
        Engine(built(), Tokenizer.from_merges([(97, 98)]))
