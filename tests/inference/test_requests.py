"""What a request may contain, and what its answers contain: text, ids and log-probabilities."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from nanochat.errors import BadConfig
from nanochat.inference.engine import Engine
from nanochat.inference.request import Part, Request, SamplingParameters
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.chat import render, render_prompt
from tests.inference.models import PROMPTS, TOKENIZER, built, greedy, ids_of, scripted, tokens_of, without_cache

BOS = TOKENIZER.bos
TEXT = "Příliš žluťoučký kůň 😀 říká: own fox, The quick brown fox. "
WORDS = Tokenizer.train_from_iterator([TEXT] * 4, 300)


def question(engine: Engine, **parameters: Any) -> Request:
    values: dict[str, Any] = {"max_tokens": 200} | parameters
    return Request(prompt=[engine.tokenizer.bos], sampling=SamplingParameters(**values))


@pytest.mark.parametrize("tokenizer", [TOKENIZER, WORDS], ids=["bytes", "words"])
def test_streamed_text_is_whole_characters_and_equals_the_answer(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tokenizer.encode(TEXT)
    engine = scripted(monkeypatch, [*ids, tokenizer.special("<|assistant_end|>")], tokenizer)
    deltas = list(engine.stream(question(engine, logprobs=0)))
    assert "".join(part.text for delta in deltas for part in delta.parts) == TEXT
    assert not any("\ufffd" in part.text for delta in deltas for part in delta.parts)
    text, released = "", list[int]()
    for delta in deltas:  # a token is released with its last character
        text += "".join(part.text for part in delta.parts)
        released += delta.ids
        assert text.startswith(tokenizer.decode(released))
        assert [logprob.token for logprob in delta.logprobs] == list(delta.ids)
    assert released == ids


def test_an_answer_after_half_a_character_completes_it_and_repeats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, [])
    prompt = [BOS, *"Kůň je k".encode(), "ů".encode()[0]]
    rest = ["ů".encode()[1], *b"n.", TOKENIZER.special("<|assistant_end|>")]
    engine = scripted(monkeypatch, [*[0] * (len(prompt) - 1), *rest])
    deltas = list(engine.stream(Request(prompt=prompt)))
    assert [part.text for part in deltas[0].parts] == ["ů"]
    assert "".join(part.text for delta in deltas for part in delta.parts) == "ůn."


@pytest.mark.parametrize("tokenizer", [TOKENIZER, WORDS], ids=["bytes", "words"])
def test_text_ids_and_logprobs_stay_aligned_under_a_stop_string(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = scripted(monkeypatch, tokenizer.encode("The quick brown fox. The end"), tokenizer)
    deltas = list(engine.stream(question(engine, stop=("own fox",), logprobs=1)))
    text = "".join(part.text for delta in deltas for part in delta.parts)
    ids = [token for delta in deltas for token in delta.ids]
    assert (text, deltas[-1].finish, deltas[-1].stopped_by) == ("The quick br", "stop", "own fox")
    assert tokenizer.decode(ids).startswith(text)
    assert [logprob.token for delta in deltas for logprob in delta.logprobs] == ids
    assert not tokenizer.decode(ids[:-1]).startswith(text)


def test_a_seeded_answer_beside_unseeded_neighbours_is_the_same() -> None:
    model = built()
    request = greedy(PROMPTS[0], 20, temperature=1.0, seed=42)
    (alone,) = ids_of(Engine(model, TOKENIZER).complete([request]))
    for seed in range(3):
        others = [greedy(prompt, 9 + seed, temperature=0.9, seed=seed, top_p=0.9) for prompt in PROMPTS]
        together = Engine(model, TOKENIZER).complete([*others[:seed], request, *others[seed:]])
        assert ids_of(together)[seed] == alone


def test_a_greedy_answer_under_45_neighbours_is_the_same() -> None:
    model = built()
    request = greedy([BOS, *range(90, 120)], 10)
    others = [greedy([BOS, *range(number, 2 * number)], 3 + number % 9) for number in range(45)]
    assert ids_of(Engine(model, TOKENIZER).complete([*others, request]))[-1] == without_cache(model, request.prompt, 10)


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_logprobs_of_a_prompt(max_tokens: int) -> None:
    model = built()
    engine = Engine(model, TOKENIZER)
    prompt = [BOS, *range(40, 110)]
    engine.complete([greedy(prompt, 1)])  # what is cached has no logits
    ((answer,),) = engine.complete([greedy(prompt, max_tokens, prompt_logprobs=3)])
    with torch.no_grad():
        logprobs_TV = model(torch.tensor([prompt]))[0].log_softmax(-1)
    assert len(answer.ids) == max_tokens
    assert answer.prompt_logprobs[0] is None
    for position, logprob in enumerate(answer.prompt_logprobs[1:]):
        assert logprob is not None
        assert logprob.token == prompt[position + 1]
        assert logprob.logprob == pytest.approx(float(logprobs_TV[position, logprob.token]), abs=1e-4)
        assert [token for token, _ in logprob.top] == logprobs_TV[position].topk(3).indices.tolist()
    assert len(answer.prompt_logprobs) == len(prompt)


def test_logprobs_of_an_answer_are_raw_or_of_what_was_sampled_from() -> None:
    model = built()
    raw, scaled = (
        greedy(PROMPTS[0], 8, temperature=0.5, top_k=5, logprobs=2, scaled_logprobs=kind) for kind in (False, True)
    )
    ((one,), (other,)) = Engine(model, TOKENIZER).complete([raw, scaled])
    assert one.ids == other.ids
    with torch.no_grad():
        logits_TV = model(torch.tensor([[*PROMPTS[0], *one.ids]]))[0, len(PROMPTS[0]) - 1 : -1]
    limit_T1 = logits_TV.topk(5).values[:, -1:]
    sampled_TV = (logits_TV.masked_fill(logits_TV < limit_T1, -torch.inf) / 0.5).log_softmax(-1)
    for n, token in enumerate(one.ids):
        assert one.logprobs[n].logprob == pytest.approx(float(logits_TV.log_softmax(-1)[n, token]), abs=1e-4)
        assert other.logprobs[n].logprob == pytest.approx(float(sampled_TV[n, token]), abs=1e-4)


def test_half_a_character_keeps_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, [*"😀".encode(), TOKENIZER.special("<|assistant_end|>")])
    ((answer,),) = engine.complete([question(engine, logprobs=1)])
    assert answer.text == "😀"
    assert b"".join(TOKENIZER.id_to_bytes(logprob.token) for logprob in answer.logprobs) == "😀".encode()


def test_ids_of_an_answer_are_those_of_the_next_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    question = [{"role": "user", "content": "3+4?"}]
    prompt = render_prompt(TOKENIZER, question)
    script = tokens_of("<|python_start|>", "3+4", "<|python_end|>", "xxx", "It is 7.", "<|assistant_end|>")
    engine = scripted(monkeypatch, [*[0] * (len(prompt) - 1), *script])
    ((answer,),) = engine.complete([Request(prompt=prompt)])
    parts = [{"type": part.kind, "text": part.text} for part in answer.parts]
    whole, learned = render(TOKENIZER, {"messages": [*question, {"role": "assistant", "content": parts}]}, 1000)
    assert [*prompt, *answer.ids, TOKENIZER.special("<|assistant_end|>")] == whole
    assert [not forced for forced in answer.forced] == [bool(mask) for mask in learned[len(prompt) : -1]]


def test_a_block_is_evaluated_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, tokens_of("<|python_start|>", "6*7", "<|python_end|>", "xxxx", "<|assistant_end|>"))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(engine.complete([question(engine)])[0]))
    thread.start()
    thread.join(60)
    assert found[0].parts == (Part("python", "6*7"), Part("python_output", "42"))


def test_an_unclosed_block_is_a_part_and_has_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, tokens_of("so ", "<|python_start|>", "6*7", "<|assistant_end|>"))
    ((answer,),) = engine.complete([question(engine)])
    assert answer.parts == (Part("text", "so "), Part("python", "6*7"))
    assert not any(answer.forced)


def test_a_block_that_begins_twice_is_evaluated_from_its_last_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = "<|python_start|>", "<|python_end|>"
    engine = scripted(monkeypatch, tokens_of(start, "6*", start, "7", end, "xxx", "<|assistant_end|>"))
    ((answer,),) = engine.complete([question(engine)])
    assert answer.parts[-1] == Part("python_output", "7")


def test_without_the_calculator_a_block_has_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(monkeypatch, tokens_of("<|python_start|>", "6*7", "<|python_end|>", "!", "<|assistant_end|>"))
    ((answer,),) = engine.complete([question(engine, calculator=False)])
    assert answer.parts == (Part("python", "6*7"), Part("text", "!"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", float("nan")), ("temperature", -1), ("temperature", 1e9), ("top_p", 0.0), ("top_p", 1.1),
        ("min_p", -0.1), ("top_k", -1), ("top_k", 1.5), ("seed", -1), ("seed", 1 << 63), ("max_tokens", -1),
        ("max_tokens", 1 << 70), ("repetition_penalty", 0.0), ("presence_penalty", float("inf")), ("logprobs", 101),
        ("prompt_logprobs", -1), ("stop", ("",)), ("stop", "x"), ("stop", ("x",) * 65), ("logit_bias", {999: 1.0}),
        ("logit_bias", {1: float("nan")}),
    ],
)  # fmt: skip
def test_a_parameter_out_of_range_is_refused_by_its_name(field: str, value: Any) -> None:
    engine = Engine(built(), TOKENIZER)
    with pytest.raises(BadConfig, match=f"`{field}`"):
        engine.submit(greedy(PROMPTS[0], **{field: value}))
    assert not engine.has_work
    assert len(ids_of(engine.complete([greedy(PROMPTS[0], 3)]))[0]) == 3


@pytest.mark.parametrize("answers", [0, -1, 10**9])
def test_a_number_of_answers_out_of_range_is_refused(answers: int) -> None:
    with pytest.raises(BadConfig, match="`answers`"):
        Engine(built(), TOKENIZER).submit(Request(prompt=PROMPTS[0], answers=answers))


def test_an_answer_of_no_tokens_is_empty() -> None:
    ((answer,),) = Engine(built(), TOKENIZER).complete([greedy(PROMPTS[0], 0)])
    assert (answer.ids, answer.finish) == ((), "length")
