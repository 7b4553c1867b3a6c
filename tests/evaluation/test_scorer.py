"""Scores of continuations equal those of a plain forward pass, whatever is computed together and reused."""

from __future__ import annotations

import random

import pytest
import torch

from nanochat.errors import BadConfig
from nanochat.evaluation.language_model import Context, Score
from nanochat.evaluation.own_model import OwnModel
from nanochat.evaluation.scorer import Scorer
from nanochat.inference.decoder import Rows
from nanochat.inference.native_decoder import NativeDecoder
from nanochat.inference.request import SamplingParameters
from nanochat.inference.torch_decoder import TorchDecoder
from nanochat.model.gpt import GPT
from tests.inference.models import TOKENIZER, built, without_cache

CONTEXT_TOKENS = 1024
LONG = 200
"""Longer than a run, so that a ring loses what the next continuation needs."""


@pytest.fixture(scope="module")
def model() -> GPT:
    return built(sequence_len=256)


def some_ids(draw: random.Random, length: int) -> tuple[int, ...]:
    return tuple(draw.randrange(TOKENIZER.vocab_size) for _ in range(length))


def cases() -> list[Context]:
    """Contexts of many lengths, with one and several continuations of many lengths; some begin alike."""
    draw = random.Random(5)
    lengths = [
        (700, [3, 1, 4]),
        (650, [LONG, 2, LONG, 1]),
        (500, [1, 1, 1, 1]),
        (300, [LONG]),
        (40, [7, 5]),
        (1, [2, 1]),
    ]
    found = [Context(some_ids(draw, length), tuple(some_ids(draw, n) for n in many)) for length, many in lengths]
    beginning = some_ids(draw, 400)
    found += [Context(beginning + some_ids(draw, length), (some_ids(draw, 3),)) for length in (20, 5, 150, 20)]
    found.append(Context(beginning, (some_ids(draw, 2), some_ids(draw, 1))))
    found.append(found[-1])
    found.append(Context(beginning[:300], (some_ids(draw, 2),)))
    return found


def plain(model: GPT, contexts: list[Context]) -> list[list[Score]]:
    found: list[list[Score]] = []
    for context in contexts:
        scores: list[Score] = []
        for ids in context.continuations:
            with torch.no_grad():
                logits_TV = model(torch.tensor([[*context.ids, *ids]]))[0, len(context.ids) - 1 : -1]
            nats = -logits_TV.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
            best = tuple(logits_TV.argmax(-1).tolist())
            scores.append(Score(tuple(nats.tolist()), best, best == ids))
        found.append(scores)
    return found


@pytest.mark.parametrize("kind", [NativeDecoder, TorchDecoder])
@pytest.mark.parametrize("slots", [1, 3])
def test_equal_to_a_plain_pass(model: GPT, kind: type[NativeDecoder] | type[TorchDecoder], slots: int) -> None:
    contexts = cases()
    found = list(Scorer(kind(model, slots, CONTEXT_TOKENS), slots).score(contexts))
    for mine, expected in zip(found, plain(model, contexts), strict=True):
        for score, wanted in zip(mine, expected, strict=True):
            assert score.nats == pytest.approx(wanted.nats, abs=2e-4)
            assert (score.most_likely, score.greedy) == (wanted.most_likely, wanted.greedy)


@pytest.mark.parametrize("kind", [NativeDecoder, TorchDecoder])
def test_bitwise_equal_alone_and_together(model: GPT, kind: type[NativeDecoder] | type[TorchDecoder]) -> None:
    contexts = cases()
    together = list(Scorer(kind(model, 8, CONTEXT_TOKENS), 8).score(contexts))
    alone = Scorer(kind(model, 1, CONTEXT_TOKENS), 1)
    assert together == [next(alone.score([context])) for context in contexts]


def test_a_context_is_computed_once(model: GPT) -> None:
    """And what it shares with the context before it is not computed again."""
    draw = random.Random(1)
    ids, more = some_ids(draw, 300), some_ids(draw, 10)
    counted = Counted(model, 1, 512)
    four = Context(ids, tuple(some_ids(draw, 5) for _ in range(4)))
    list(Scorer(counted, 1).score([four]))
    assert counted.tokens == 300 + 4 * 4
    assert counted.outputs == 1 + 4 * 4, "the head is computed only where a token is scored"
    one_token = Context(ids, tuple((token,) for token in range(4)))
    counted.tokens = 0
    list(Scorer(counted, 1).score([one_token]))
    assert counted.tokens == 300
    counted.tokens = 0
    list(Scorer(counted, 1).score([Context(ids, ((1,),)), Context(ids + more, ((1,),))]))
    assert counted.tokens == 310


def test_answers_and_limits_of_our_own_model(model: GPT) -> None:
    own = OwnModel(model, TOKENIZER, context_tokens=64)
    prompts = [[TOKENIZER.bos, *own.encode(text)] for text in ("ab", "cde")]
    greedy = SamplingParameters(max_tokens=6, ignore_end=True, calculator=False)
    done: list[int] = []
    answers = list(own.generate(prompts, greedy, answers=2, report=done.append))
    for prompt, (one, other) in zip(prompts, answers, strict=True):
        assert list(one.ids) == without_cache(model, prompt, 6)
        assert one == other
        assert not one.complete
    assert done[-1] == 2
    assert list(own.generate([], greedy)) == list(own.score([])) == []
    ids = tuple(range(60))
    (scores,) = own.score([Context(ids, ((1, 2, 3, 4),))])
    assert len(scores[0].nats) == 4
    with pytest.raises(BadConfig, match="65 tokens, but the model reads 64"):
        list(own.score([Context(ids, ((1, 2, 3, 4, 5),))]))
    with pytest.raises(BadConfig):  # case 11 (LM#4001): refused; the prompt is not emptied
        list(own.generate(prompts, SamplingParameters(max_tokens=70)))


def test_a_longer_context_than_before_gets_longer_slots(model: GPT) -> None:
    own = OwnModel(model, TOKENIZER)
    draw = random.Random(9)
    for length in (10, 700, 20):
        context = Context(some_ids(draw, length), (some_ids(draw, 3), some_ids(draw, 1)))
        (mine,), (expected,) = list(own.score([context])), plain(model, [context])
        for score, wanted in zip(mine, expected, strict=True):
            assert score.nats == pytest.approx(wanted.nats, abs=2e-4)


class Counted(NativeDecoder):
    """Counts the tokens of passes, and the outputs of the head."""

    tokens = outputs = 0

    def forward(self, rows: Rows) -> torch.Tensor:
        self.tokens += len(rows)
        return super().forward(rows)

    def logits(self, hidden_NC: torch.Tensor) -> torch.Tensor:
        self.outputs += len(hidden_NC)
        return super().logits(hidden_NC)
