"""A model of transformers scores and generates as plain transformers does, whatever is computed together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from nanochat.errors import BadConfig
from nanochat.evaluation.language_model import Context, Score
from nanochat.evaluation.transformers_model import TransformersModel
from nanochat.inference.request import SamplingParameters
from tests.evaluation import tiny_models

SENTENCES = ["the cat sat on the mat", "Question: what is it?", "a", "naïve café 12 34 and the log"] * 3
ENDINGS = [" the dog", " a cat and a dog and a log", " it", " 12", " naïve"]


def model(network: str = "llama", *, adds_bos: bool = False, **options: Any) -> TransformersModel:
    tokenizer = tiny_models.tokenizer(adds_bos=adds_bos, template=options.pop("template", tiny_models.TEMPLATE))
    return TransformersModel(tiny_models.NETWORKS[network](), tokenizer, name="tiny", **options)


def contexts(model: TransformersModel, endings: Sequence[str]) -> list[Context]:
    after = tuple(tuple(model.encode(each)) for each in endings)
    return [Context(tuple(model.encode(text * (place + 1))), after) for place, text in enumerate(SENTENCES)]


@torch.no_grad()
def plain(model: TransformersModel, ids: Sequence[int], after: Sequence[int]) -> Score:
    """One forward pass of transformers on the whole text."""
    logits_TV = model.network(torch.tensor([[*ids, *after]])).logits[0, len(ids) - 1 : -1].float()
    nats_T = -torch.log_softmax(logits_TV, -1)[range(len(after)), list(after)]
    most_likely = tuple(logits_TV.argmax(-1).tolist())
    return Score(tuple(nats_T.tolist()), most_likely, most_likely == tuple(after))


def worst(scores: Sequence[Sequence[Score]], expected: Sequence[Sequence[Score]]) -> float:
    """The largest difference between the nats of any token; infinite if a greedy flag differs."""
    pairs = list(zip(chain(*scores), chain(*expected), strict=True))
    if any(a.greedy != b.greedy for a, b in pairs):
        return math.inf
    return max(abs(x - y) for a, b in pairs for x, y in zip(a.nats, b.nats, strict=True))


@pytest.mark.parametrize("endings", [ENDINGS, ENDINGS[:1], ["a", "b", "c"]], ids=["several", "one", "one token"])
@pytest.mark.parametrize("network", tiny_models.NETWORKS)
def test_scores_are_those_of_plain_transformers(network: str, endings: list[str]) -> None:
    tested = model(network)
    wanted = contexts(tested, endings)
    expected = [[plain(tested, each.ids, after) for after in each.continuations] for each in wanted]
    assert worst(list(tested.score(wanted)), expected) < 1e-4


@pytest.mark.parametrize("together", [1, 7, 64])
def test_case_3_and_4_scores_do_not_depend_on_what_is_computed_together(together: int) -> None:
    tested = model()
    some = contexts(tested, ENDINGS)
    alone = [next(tested.score([each])) for each in some]
    batches = [some[begin : begin + together] for begin in range(0, len(some), together)]
    assert [score for batch in batches for score in tested.score(batch)] == alone


def test_continuations_that_exceed_the_memory_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = model()
    some = contexts(tested, ENDINGS)
    whole = list(tested.score(some))
    monkeypatch.setattr("nanochat.evaluation.transformers_model.CACHED_TOKENS", 200)
    assert worst(list(tested.score(some)), whole) < 1e-5


def test_progress_is_reported_and_the_longest_context_is_first() -> None:
    tested = model()
    some = contexts(tested, ENDINGS)
    lengths: list[int] = []
    score, done = tested._score, []
    tested._score = lambda context: lengths.append(len(context.ids)) or score(context)  # type: ignore[method-assign]
    list(tested.score(some, done.append))
    assert lengths == sorted(lengths, reverse=True)
    assert done == list(range(1, len(some) + 1))


def test_case_11_a_context_longer_than_the_model_reads_is_refused() -> None:
    tested = model()
    with pytest.raises(BadConfig, match="250 tokens and its longest continuation, of 8, exceed the 256 tokens"):
        list(tested.score([Context((5,) * 250, ((6,) * 8,))]))
    assert len(list(tested.score([Context((5,) * 248, ((6,) * 8,))]))) == 1
    with pytest.raises(BadConfig, match="empty"):
        list(tested.score([Context((), ((6,),))]))


# --- BOS and chat templates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adds_bos", "policy", "bos"),
    [(True, "tokenizer", 0), (False, "tokenizer", None), (False, "always", 0), (True, "never", None)],
)
def test_case_9_the_tokenizer_decides_whether_bos_begins_a_text(adds_bos: bool, policy: Any, bos: int | None) -> None:
    tested = model(adds_bos=adds_bos, bos=policy)
    assert tested.bos == bos
    assert 0 not in tested.encode("the cat"), "`encode` adds no special token"


@pytest.mark.parametrize("template", [tiny_models.TEMPLATE, tiny_models.TEMPLATE_WITH_BOS])
def test_case_10_a_conversation_begins_with_exactly_one_bos(template: str) -> None:
    tested = model(adds_bos=True, template=template)
    ids = tested.chat_prompt([{"role": "user", "content": "the cat"}])
    assert ids[0] == 0
    assert ids.count(0) == 1
    text = "<s><|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    assert tested.tokenizer.decode(ids) == text


def test_without_bos_a_conversation_is_as_the_template_writes_it() -> None:
    tested = model()
    ids = tested.chat_prompt([{"role": "user", "content": "the cat"}])
    assert ids == tested.tokenizer("<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n").input_ids
    assert ids[0] == 1


def test_names_of_special_tokens_in_a_text_stay_text() -> None:
    tested = model(adds_bos=True)
    text = "<s>the <|im_end|> cat<|im_start|>"
    assert set(tested.encode(text)).isdisjoint({0, 1, 2})
    assert tested.decode(tested.encode(text)) == text
    ids = tested.chat_prompt([{"role": "user", "content": text}])
    assert [each for each in ids if each < 3] == [0, 1, 2, 1]
    assert text in tested.decode(ids)


def test_a_template_with_a_date_gives_equal_prompts_every_day() -> None:
    tested = model(template="{{ strftime_now('%Y-%m-%d') }}" + tiny_models.TEMPLATE)
    assert tested.decode(tested.chat_prompt([{"role": "user", "content": "a"}])).startswith("2024-07-26")


def test_a_base_model_and_a_template_that_refuses_are_one_sentence() -> None:
    with pytest.raises(BadConfig, match="no chat template"):
        model(template=None).chat_prompt([{"role": "user", "content": "a"}])
    refusing = "{{ raise_exception('no system message') }}"
    with pytest.raises(BadConfig, match="no system message"):
        model(template=refusing).chat_prompt([{"role": "system", "content": "a"}])


# --- answers ----------------------------------------------------------------------------------------------------------


def greedy(model: TransformersModel, prompt: Sequence[int], tokens: int) -> list[int]:
    """What plain transformers generates."""
    ids = torch.tensor([list(prompt)])
    network: Any = model.network
    out = network.generate(ids, max_new_tokens=tokens, do_sample=False, attention_mask=torch.ones_like(ids))
    answer = out[0, len(prompt) :].tolist()
    return answer[: answer.index(2)] if 2 in answer else answer


@pytest.mark.parametrize("network", tiny_models.NETWORKS)
def test_greedy_answers_are_those_of_plain_transformers(network: str) -> None:
    tested = model(network)
    prompts = [tested.encode(text * (place + 1)) for place, text in enumerate(SENTENCES)]
    answers = list(tested.generate(prompts, SamplingParameters(max_tokens=24)))
    assert [list(answer.ids) for (answer,) in answers] == [greedy(tested, prompt, 24) for prompt in prompts]
    assert all(answer.text == tested.decode(answer.ids) for (answer,) in answers)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_case_3_answers_do_not_depend_on_the_batch(
    rows: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = model()
    prompts = [tested.encode(text * (place + 1)) for place, text in enumerate(SENTENCES)]
    sampling = SamplingParameters(max_tokens=16, temperature=temperature, top_k=20)
    alone = [next(tested.generate([prompt], sampling, answers=3)) for prompt in prompts]
    monkeypatch.setattr("nanochat.evaluation.transformers_model.GENERATED_ROWS", rows)
    assert list(tested.generate(prompts, sampling, answers=3)) == alone
    if temperature:
        assert len({answer.ids for answers in alone for answer in answers}) > len(prompts)


def test_case_8_the_temperature_and_the_seed_change_the_answer() -> None:
    tested = model()
    prompt = tested.encode("the cat sat")
    found = {
        next(tested.generate([prompt], SamplingParameters(max_tokens=12, temperature=temperature, seed=seed)))[0].ids
        for temperature, seed in [(0.0, 1), (0.7, 1), (0.7, 2)]
    }
    assert len(found) == 3


def test_answers_end_at_stop_strings_ids_and_the_end_token() -> None:
    tested = model()
    prompt = tested.encode("Question: what")
    (whole,) = next(tested.generate([prompt], SamplingParameters(max_tokens=24, ignore_end=True)))
    assert not whole.complete
    assert len(whole.ids) == 24
    stop = whole.text[5:8]
    (stopped,) = next(tested.generate([prompt], SamplingParameters(max_tokens=24, ignore_end=True, stop=(stop,))))
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.complete
    assert whole.ids[: len(stopped.ids)] == stopped.ids
    token = whole.ids[4]
    sampling = SamplingParameters(max_tokens=24, ignore_end=True, stop_ids=frozenset([token]))
    (by_id,) = next(tested.generate([prompt], sampling))
    assert by_id.ids == whole.ids[: whole.ids.index(token)]
    tested.ends = frozenset([token])
    assert next(tested.generate([prompt], SamplingParameters(max_tokens=24)))[0] == by_id


def test_case_11_more_new_tokens_than_the_context_are_refused_and_the_prompt_is_kept() -> None:
    tested = model()
    prompt = [5] * 200
    with pytest.raises(BadConfig, match="`max_tokens` is 256, and `tiny` reads 256 at most: no room for a prompt"):
        next(tested.generate([prompt], SamplingParameters(max_tokens=256)))
    with pytest.raises(BadConfig, match="A prompt has 300 tokens, and `tiny` reads 256 at most"):
        next(tested.generate([[5] * 300], SamplingParameters(max_tokens=8)))
    (answer,) = next(tested.generate([prompt], SamplingParameters(max_tokens=128, ignore_end=True)))
    assert len(answer.ids) == 56
    assert not answer.complete
