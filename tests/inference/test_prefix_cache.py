"""Keys and values of earlier requests: what is computed again, and that no answer depends on them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nanochat.inference.engine import Engine, EngineSettings
from nanochat.inference.prefix_cache import BLOCK_TOKENS, Prefix, PrefixCache
from nanochat.inference.request import Request, SamplingParameters
from tests.inference.models import TOKENIZER, built, greedy, ids_of, without_cache

BOS = TOKENIZER.bos
HEAD = [BOS, *range(47)]
BLOCK = ()
"""What a block contains does not matter to the cache."""


def computed_by(engine: Engine, request: Request) -> int:
    """Tokens of the prompt that were computed."""
    before = engine.statistics.prompt_tokens_computed
    engine.complete([request])
    return engine.statistics.prompt_tokens_computed - before


def test_the_same_request_four_times_has_the_same_answer() -> None:
    model = built()
    engine = Engine(model, TOKENIZER)
    request = greedy([*HEAD, 7, 8], 30)
    answers = [ids_of(engine.complete([request]))[0]]
    engine.complete([greedy([*HEAD, 9], 30, stop=("a",), stop_ids=frozenset(range(50))), greedy(HEAD[:20], 9)])
    answers += [ids_of(engine.complete([request]))[0] for _ in range(3)]
    assert answers == [without_cache(model, request.prompt, 30)] * 4


@pytest.mark.parametrize("length", [BLOCK_TOKENS - 1, BLOCK_TOKENS, BLOCK_TOKENS + 1, 3 * BLOCK_TOKENS])
def test_the_last_token_of_a_known_prompt_is_computed_again(length: int) -> None:
    model = built()
    engine = Engine(model, TOKENIZER)
    request = greedy(HEAD[:length], 3)
    assert computed_by(engine, request) == length
    assert computed_by(engine, request) == (length - 1) % BLOCK_TOKENS + 1
    assert ids_of(engine.complete([request])) == [without_cache(model, request.prompt, 3)]


def test_questions_that_share_a_head_compute_it_once() -> None:
    engine = Engine(built(), TOKENIZER)
    engine.complete([greedy([*HEAD, 100 + number, 3], 2) for number in range(6)])
    assert engine.statistics.prompt_tokens_computed == 50 + 5 * 2
    assert engine.statistics.prompt_tokens_cached == 5 * 48


def test_a_second_turn_computes_what_is_new() -> None:
    model = built()
    engine = Engine(model, TOKENIZER)
    ((first,),) = engine.complete([greedy(HEAD, 40)])
    second = [*HEAD, *first.ids, 1, 2, 3]
    # the last token of the first answer was never an input, and blocks are whole
    assert computed_by(engine, greedy(second, 5)) == len(second) - (len(HEAD) + 39) // BLOCK_TOKENS * BLOCK_TOKENS
    assert ids_of(engine.complete([greedy(second, 5)])) == [without_cache(model, second, 5)]


def test_a_second_turn_after_the_window_has_moved_on_equals_no_cache() -> None:
    model = built(sequence_len=512, window_pattern="S")
    engine = Engine(model, TOKENIZER, EngineSettings(prefill_chunk_tokens=48))
    prompts = [[BOS, *[(seed * t) % 251 for t in range(length)]] for seed, length in ((3, 300), (5, 40), (7, 170))]
    first = engine.complete([greedy(prompt, 20) for prompt in prompts])
    second = [[*prompt, *answer.ids, 4, 5, 6, 7] for prompt, (answer,) in zip(prompts, first, strict=True)]
    assert ids_of(engine.complete([greedy(prompt, 8) for prompt in second])) == [
        without_cache(model, prompt, 8) for prompt in second
    ]
    assert engine.statistics.prompt_tokens_cached > 400


def test_requests_of_another_salt_share_nothing() -> None:
    engine = Engine(built(), TOKENIZER)
    request = greedy(HEAD, 2)
    assert computed_by(engine, replace(request, cache_salt="one")) == len(HEAD)
    assert computed_by(engine, replace(request, cache_salt="other")) == len(HEAD)
    assert computed_by(engine, request) == len(HEAD)
    assert computed_by(engine, replace(request, cache_salt="one")) == BLOCK_TOKENS


def test_a_full_cache_drops_what_was_used_least_recently_and_the_end_of_a_prefix_first() -> None:
    cache = PrefixCache(3 * BLOCK_TOKENS)
    rows = [[number] * 3 * BLOCK_TOKENS for number in range(3)]

    def put(row: list[int], blocks: int) -> None:
        prefix = Prefix()
        for _ in range(blocks):
            prefix.chain.append(prefix.next(row))
            cache.put(prefix, BLOCK)

    def known(row: list[int]) -> int:
        return len(cache.find(Prefix(), [*row, 0]))

    put(rows[0], 2)
    put(rows[1], 1)
    assert (known(rows[1]), known(rows[0])) == (1, 2)
    put(rows[2], 1)
    assert [known(row) for row in rows] == [2, 0, 1]
    put(rows[1], 1)
    assert [known(row) for row in rows] == [1, 1, 1]
    assert cache.tokens == 3 * BLOCK_TOKENS


def test_an_engine_without_a_cache_keeps_nothing() -> None:
    engine = Engine(built(), TOKENIZER, EngineSettings(prefix_cache_tokens=0))
    assert [computed_by(engine, greedy(HEAD, 2)) for _ in range(2)] == [len(HEAD)] * 2
    assert engine.statistics.cache_tokens == 0


def test_all_prompts_of_a_rollout_are_computed_once() -> None:
    engine = Engine(built(), TOKENIZER, EngineSettings(slots=4))
    sampling = SamplingParameters(max_tokens=4, temperature=1.0, ignore_end=True)
    requests = [Request(prompt=[BOS, number, *range(20)], sampling=sampling, answers=8) for number in range(6)]
    answers = engine.complete(requests)
    assert engine.statistics.prompt_tokens_computed == sum(len(request.prompt) for request in requests)
    assert [len(each) for each in answers] == [8] * 6
