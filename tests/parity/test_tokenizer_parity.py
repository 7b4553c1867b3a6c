"""Equal to the peers: ranks to PyPI's rustbpe, ids to tiktoken, for every pattern that is scanned by hand."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
import tiktoken
from hypothesis import given, settings

import rustbpe
from nanochat._rustbpe import PATTERNS, is_fast, split_pieces
from nanochat.tokenizer.bpe import SPECIALS, Tokenizer
from nanochat.tokenizer.tiktoken_format import from_tiktoken_ranks, tiktoken_ranks
from tests.parity.texts import ANY_TEXT, FORMS, TEXTS, code_points, first_difference

VOCAB_SIZE = 1200
NAMES = ("nanochat", "gpt2", "cl100k", "llama3", "o200k")
OURS = {
    name: Tokenizer.train_from_iterator(TEXTS, VOCAB_SIZE, pattern=PATTERNS[name], threads=1 + number % 3)
    for number, name in enumerate(NAMES)
}
PEERS = {
    name: tiktoken.Encoding(name, pat_str=ours.pattern, mergeable_ranks=tiktoken_ranks(ours), special_tokens={})
    for name, ours in OURS.items()
}
every_pattern = pytest.mark.parametrize("name", NAMES)


@every_pattern
def test_ranks_equal_rustbpe(name: str) -> None:
    other = rustbpe.Tokenizer()
    other.train_from_iterator(iter(TEXTS), VOCAB_SIZE - len(SPECIALS), pattern=PATTERNS[name])
    ranks = sorted(other.get_mergeable_ranks(), key=lambda item: item[1])
    assert [bytes(token) for token, _ in ranks] == list(tiktoken_ranks(OURS[name]))


@every_pattern
def test_ids_equal_tiktoken(name: str) -> None:
    assert is_fast(PATTERNS[name])
    for text in TEXTS:
        assert OURS[name].encode(text) == PEERS[name].encode_ordinary(text)


@every_pattern
def test_ids_of_any_ranks_equal_tiktoken(name: str) -> None:
    """Ids in another order than ours, with a gap, as in the vocabularies of OpenAI."""
    ranks = {token: rank + (7 if rank < 256 else 9) for token, rank in tiktoken_ranks(OURS[name]).items()}
    ranks |= {bytes([byte]): 7 + (byte * 77) % 256 for byte in range(256)}
    ours = from_tiktoken_ranks(ranks, PATTERNS[name], {"<|end|>": 3})
    peer = tiktoken.Encoding(name, pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens={"<|end|>": 3})
    for text in TEXTS[::3]:
        ids = ours.encode(text)
        assert ids == peer.encode_ordinary(text)
        assert ours.decode([*ids, 3]) == text + "<|end|>"


@every_pattern
@pytest.mark.parametrize("form", FORMS)
def test_every_code_point(name: str, form: str) -> None:
    assert first_difference(OURS[name].encode, PEERS[name].encode_ordinary, code_points(), form) is None


@every_pattern
@settings(max_examples=400, deadline=None)
@given(text=ANY_TEXT)
def test_any_text(name: str, text: str) -> None:
    assert "".join(split_pieces(text, PATTERNS[name])) == text
    ids = OURS[name].encode(text)
    assert ids == PEERS[name].encode_ordinary(text)
    assert OURS[name].decode(ids) == text


@every_pattern
@settings(max_examples=50, deadline=None)
@given(text=ANY_TEXT)
def test_any_text_behind_any_number_of_letters(name: str, text: str) -> None:
    """Texts are scanned 64 bytes at a time: what follows may begin anywhere in such a block."""
    for letters in range(50, 70):
        shifted = "x" * letters + text
        assert OURS[name].encode(shifted) == PEERS[name].encode_ordinary(shifted)


@every_pattern
@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 14, 15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 127, 128, 129, 200, 3000])
def test_pieces_of_all_sizes(name: str, size: int) -> None:
    generator = random.Random(size)
    for letters in ("a", "ab", "the", "abcdefgh", "é", "e東", " ", "\n", " \n", "!", "1", "!\n", "Ab"):
        text = "".join(generator.choices(letters, k=size))
        for around in ("{}", "{} x", "x{}", "{}\n"):
            whole = around.format(text)
            assert OURS[name].encode(whole) == PEERS[name].encode_ordinary(whole)


@every_pattern
def test_large_texts_shared_by_threads(name: str) -> None:
    """However the work is divided, and wherever a text is cut for it."""
    texts = ["\n".join(TEXTS * 3), "", "no space " + "é" * 30_000, *TEXTS, " ".join(TEXTS[::-1] * 2)]
    expected = [number for text in texts for number in PEERS[name].encode_ordinary(text)]
    for threads in range(1, 6):
        for given_texts in (texts, pa.array(texts), pa.chunked_array([texts[:1], texts[1:5], texts[5:]])):
            ids, offsets = OURS[name].encode_batch(given_texts, threads=threads)
            assert np.array_equal(ids, expected)
            assert len(offsets) == len(texts) + 1


@every_pattern
@pytest.mark.parametrize("character", ["a", " ", "!", "\n", "é", "1"])
def test_long_runs_end(name: str, character: str) -> None:
    text = character * 1_000_000
    assert OURS[name].decode(OURS[name].encode(text)) == text


@every_pattern
def test_lone_surrogates_are_replaced(name: str) -> None:
    for text in ("a\ud800b", "\udfff", "\ud83d", "x \udc00\ud800 y"):
        assert OURS[name].encode(text) == PEERS[name].encode_ordinary(text)
        assert OURS[name].encode_batch([text, "b"])[0].tolist() == [*PEERS[name].encode_ordinary(text), 98]


def test_only_bytes_equal_tiktoken() -> None:
    ours = from_tiktoken_ranks({bytes([byte]): byte for byte in range(256)})
    peer = tiktoken.Encoding("bytes", pat_str=ours.pattern, mergeable_ranks=tiktoken_ranks(ours), special_tokens={})
    assert ours.vocab_size == 256
    for text in TEXTS[::50]:
        assert ours.encode(text) == peer.encode_ordinary(text) == list(text.encode())


def test_a_pattern_of_ones_own() -> None:
    """No scanner is written for it; what it does not match is a piece too."""
    pattern = r"[a-z]+|\d|\s+"
    with pytest.warns(UserWarning, match="fifty times slower"):
        ours = Tokenizer.train_from_iterator(TEXTS, 400, pattern=pattern, special_tokens=[])
    peer = tiktoken.Encoding("own", pat_str=pattern + "|.", mergeable_ranks=tiktoken_ranks(ours), special_tokens={})
    assert not is_fast(pattern)
    assert split_pieces("ab7?!\n", pattern) == ["ab", "7", "?!", "\n"]
    for text in ("abc 12 def", "the road\n  9", "", "island 3"):
        assert ours.encode(text) == peer.encode_ordinary(text)
