"""Equal to the peers: ranks to PyPI's rustbpe, ids to tiktoken and Hugging Face's tokenizers."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

import rustbpe
from nanochat._rustbpe import PATTERN, split_pieces
from nanochat.errors import BadConfig
from nanochat.tokenizer.bpe import BYTES, SPECIALS, Tokenizer
from nanochat.tokenizer.export import hf_json, tiktoken_ranks
from nanochat.world.documents import documents

WORDS = [
    *("der", "Hund", "läuft", "über", "Straßen", "東京", "は", "大きい", "12", "345", "6789", "приве́т", "мир", "naïve"),
    *("don't", "WE'LL", "it'ſ", "\u00a0", "a\tb\r\n\n", "", "x", "½Ⅷ²", "🙂🙃"),
]
TEXT = st.text(
    st.sampled_from("ab'sſlLvVeErdm12½ \t\n\r\u00a0\u2028.,!?-é東🙂") | st.characters(exclude_categories=["Cs"]),
    max_size=80,
)


def multilingual(count: int) -> list[str]:
    dice = random.Random(1)
    return [" ".join(dice.choices(WORDS, k=dice.randint(1, 60))) + "\n" * dice.randint(0, 3) for _ in range(count)]


TEXTS = [*documents(3, 0, 600), *multilingual(600)]
VOCAB_SIZE = 1200


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.train([TEXTS], VOCAB_SIZE, threads=2)


@pytest.fixture(scope="module")
def peer(ours: Tokenizer) -> tiktoken.Encoding:
    return tiktoken.Encoding("peer", pat_str=PATTERN, mergeable_ranks=tiktoken_ranks(ours), special_tokens={})


def test_ranks_equal_rustbpe(ours: Tokenizer) -> None:
    other = rustbpe.Tokenizer()
    other.train_from_iterator(iter(TEXTS), VOCAB_SIZE - len(SPECIALS), pattern=PATTERN)
    assert [
        bytes(token) for token, _ in sorted(other.get_mergeable_ranks(), key=lambda item: item[1])
    ] == ours.token_bytes()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_learns_the_same(ours: Tokenizer, threads: int) -> None:
    batches = [TEXTS[:100], pa.array(TEXTS[100:500]), pa.array(TEXTS, pa.large_string())[500:]]
    assert Tokenizer.train(batches, VOCAB_SIZE, threads=threads).merges == ours.merges


def test_ids_equal_tiktoken(ours: Tokenizer, peer: tiktoken.Encoding) -> None:
    for text in TEXTS:
        assert ours.encode(text) == peer.encode_ordinary(text)


def test_every_code_point_alone_and_between(ours: Tokenizer, peer: tiktoken.Encoding) -> None:
    points = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for form in ("{}", "a{}b", "1{}2", " {} ", "\n{}\n", "'{}'", ".{}."):
        text = "\u0001".join(form.format(point) for point in points)
        assert ours.encode(text) == peer.encode_ordinary(text), form


@settings(max_examples=600, deadline=None)
@given(
    st.text(
        st.sampled_from("ab'sſlLvVeErdm12½ \t\n\r\u00a0\u2028.,!?-é東🙂") | st.characters(exclude_categories=["Cs"]),
        max_size=80,
    )
)
def test_any_text(text: str) -> None:
    assert "".join(split_pieces(text)) == text
    assert ENCODER.encode(text) == PEER.encode_ordinary(text)
    assert ENCODER.decode(ENCODER.encode(text)) == text


ENCODER = Tokenizer.train([TEXTS[:300]], 700)
PEER = tiktoken.Encoding("peer", pat_str=PATTERN, mergeable_ranks=tiktoken_ranks(ENCODER), special_tokens={})


@pytest.mark.parametrize("size", [14, 15, 16, 17, 63, 64, 65, 66, 200, 3000])
def test_pieces_of_all_sizes(ours: Tokenizer, peer: tiktoken.Encoding, size: int) -> None:
    dice = random.Random(size)
    for letters in ("a", "ab", "the", "abcdefgh"):
        text = "".join(dice.choices(letters, k=size))
        assert ours.encode(text) == peer.encode_ordinary(text)


def test_long_runs_are_quick_and_right(ours: Tokenizer) -> None:
    for character in ("a", " ", "!", "\n", "é"):
        text = character * 1_000_000
        assert ours.decode(ours.encode(text)) == text


def test_batches_equal_single_texts(ours: Tokenizer) -> None:
    expected = [ours.encode(text) for text in TEXTS]
    for texts in (TEXTS, pa.array(TEXTS), pa.array(["x", *TEXTS])[1:]):
        ids, offsets = ours.encode_batch(texts, threads=2, before=ours.bos)
        assert ids.dtype == np.uint16
        parts = [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]
        assert parts == [[ours.bos, *one] for one in expected]


def test_lone_surrogates_are_replaced(ours: Tokenizer, peer: tiktoken.Encoding) -> None:
    assert ours.encode("a\ud800b") == peer.encode_ordinary("a\ud800b")


def test_empty_and_nul(ours: Tokenizer) -> None:
    assert ours.encode("") == []
    assert ours.decode(ours.encode("\0a\0")) == "\0a\0"
    ids, offsets = ours.encode_batch(["", ""])
    assert (len(ids), offsets.tolist()) == (0, [0, 0, 0])
    assert ours.encode_batch([])[1].tolist() == [0]


def test_hugging_face_reads_it_to_the_same_ids(ours: Tokenizer) -> None:
    other = tokenizers.Tokenizer.from_str(json.dumps(hf_json(ours)))
    for text in TEXTS[::7]:
        assert other.encode(text, add_special_tokens=False).ids == ours.encode(text)
        assert other.decode(ours.encode(text)) == text
    assert other.token_to_id("<|bos|>") == ours.bos


def test_special_tokens_come_by_id_only(ours: Tokenizer) -> None:
    assert ours.bos not in ours.encode("<|bos|>")
    assert ours.decode([ours.bos]) == "<|bos|>"
    assert ours.special("<|output_end|>") == VOCAB_SIZE - 1
    with pytest.raises(KeyError):
        ours.decode([VOCAB_SIZE])


def test_saved_and_loaded(ours: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    ours.save(path)
    again = Tokenizer.load(path)
    assert (again.digest, again.vocab_size) == (ours.digest, VOCAB_SIZE)


def test_a_vocabulary_of_the_wrong_size_is_one_sentence() -> None:
    with pytest.raises(BadConfig, match=r"`tokenizer\.vocab_size` = 265 has no room"):
        Tokenizer.train([["abc"]], 265)
    with pytest.raises(BadConfig, match=r"holds only 2 merges. Take at most 267"):
        Tokenizer.train([["abc"]], 5000)


def test_byte_lengths(ours: Tokenizer) -> None:
    lengths = ours.token_byte_lengths()
    assert lengths.shape == (VOCAB_SIZE,)
    assert lengths[:BYTES].tolist() == [1] * BYTES
    assert lengths[-len(SPECIALS) :].tolist() == [0] * len(SPECIALS)
