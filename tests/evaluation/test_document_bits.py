"""Bits per byte of any text: each token is scored once, exactly for short documents, whatever is computed together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from nanochat.errors import BadConfig
from nanochat.evaluation.document_bits import DocumentBits, Windows, bits_per_byte, document_bits
from nanochat.evaluation.transformers_model import TransformersModel
from tests.evaluation import tiny_models

TEXTS = ["the cat sat on the mat and the dog sat on the log. " * 6, "naïve café", "a", "12 34 Question: what is it?"]


def model(*, adds_bos: bool = False, network: str = "llama") -> TransformersModel:
    return TransformersModel(
        tiny_models.NETWORKS[network](), tiny_models.tokenizer(adds_bos=adds_bos), name="tiny", bos="tokenizer"
    )


@torch.no_grad()
def whole(model: TransformersModel, text: str) -> float:
    """Bits of a text in one pass of plain transformers."""
    ids = [0 if model.bos == 0 else 2, *model.encode(text)]
    logits_TV = model.network(torch.tensor([ids])).logits[0, :-1].float()
    nats = -torch.log_softmax(logits_TV, -1)[range(len(ids) - 1), ids[1:]]
    return float(nats.double().sum()) / math.log(2)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("network", tiny_models.NETWORKS)
def test_documents_that_fit_the_window_are_exact(network: str, adds_bos: bool) -> None:
    tested = model(adds_bos=adds_bos, network=network)
    found = document_bits(tested, TEXTS, Windows.of(tested, 2048, 1024))
    assert [each.bits for each in found] == pytest.approx([whole(tested, text) for text in TEXTS], abs=1e-3)
    assert [each.text_bytes for each in found] == [len(text.encode()) for text in TEXTS]
    assert [each.tokens for each in found] == [len(tested.encode(text)) for text in TEXTS]


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize(("window", "context"), [(64, 32), (64, 0), (16, 15), (2, 1), (3, 0), (256, 200)])
@pytest.mark.parametrize("length", [1, 15, 16, 31, 32, 33, 63, 64, 65, 200])
def test_each_token_is_scored_once_with_context_before_it(
    length: int, window: int, context: int, adds_bos: bool
) -> None:
    windows = Windows.of(model(adds_bos=adds_bos), window, context)
    ids = list(range(1000, 1000 + length))
    contexts = list(windows.contexts(ids))
    assert list(chain(*(each.continuations[0] for each in contexts))) == ids
    for number, each in enumerate(contexts):
        (scored,) = each.continuations
        assert len(each.ids) + len(scored) <= window
        assert each.ids
        before = scored[0] - 1000
        start = 1 if adds_bos or number == 0 else 0
        assert list(each.ids[start:]) == ids[before - len(each.ids) + start : before]
        if number:
            assert len(each.ids) - start >= min(context, window // 2, before, window - 1 - start)


def test_more_context_costs_fewer_bits_and_a_window_as_long_as_the_text_is_exact() -> None:
    tested = model(adds_bos=True)
    text = TEXTS[0]
    tokens = len(tested.encode(text))
    exact = whole(tested, text)
    (windowed,) = document_bits(tested, [text], Windows.of(tested, tokens + 1, 1))
    assert windowed.bits == pytest.approx(exact, abs=1e-3)
    (cut,) = document_bits(tested, [text], Windows.of(tested, 16, 8))
    assert abs(cut.bits - exact) > 0.1, "a text that is cut has other scores"


def test_bits_do_not_depend_on_the_batch() -> None:
    tested = model()
    windows = Windows.of(tested, 32, 16)
    alone = [document_bits(tested, [text], windows)[0] for text in TEXTS * 3]
    assert document_bits(tested, TEXTS * 3, windows) == alone


def test_the_window_is_no_larger_than_what_the_model_reads() -> None:
    assert Windows.of(model(), 2048, 1024).window_tokens == 256
    assert Windows.of(model(), 2048, 1024).context_tokens == 128
    tested = model()
    tested.separator = None
    with pytest.raises(BadConfig, match="neither BOS nor an end token"):
        Windows.of(tested, 64, 32)


def test_bits_per_byte_is_over_all_bytes_and_its_interval_over_documents() -> None:
    documents = [DocumentBits(100, 20, 150.0), DocumentBits(300, 50, 350.0)]
    ratio, interval = bits_per_byte(documents)
    assert ratio == 1.25
    assert interval is not None
    assert ratio in interval
    assert bits_per_byte(documents[:1]) == (1.5, None)


def test_the_interval_covers_the_true_value() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        lengths = generator.integers(50, 2000, 40)
        rates = 1.2 + 0.2 * generator.standard_normal(40)
        interval = bits_per_byte([_document(*each) for each in zip(lengths, rates, strict=True)])[1]
        covered += interval is not None and 1.2 in interval
    assert 925 <= covered <= 975


def _document(length: int, rate: float) -> DocumentBits:
    return DocumentBits(int(length), int(length) // 4, float(length * rate))


def test_two_tokenizers_of_one_text_are_compared_by_bytes() -> None:
    """A model that splits text into more tokens needs fewer bits for each; its bits per byte compare."""
    fine: Sequence[DocumentBits] = [DocumentBits(1000, 900, 2000.0)]
    coarse: Sequence[DocumentBits] = [DocumentBits(1000, 250, 1900.0)]
    assert bits_per_byte(coarse)[0] < bits_per_byte(fine)[0]
