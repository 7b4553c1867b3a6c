"""Very long tokens, pieces and texts cost in proportion to their bytes, and can be stopped."""

from __future__ import annotations

import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nanochat._rustbpe import PATTERN
from nanochat.errors import DamagedArtifact
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.huggingface_format import read_hf, write_hf
from nanochat.tokenizer.tiktoken_format import read_tiktoken, write_tiktoken

MILLION = 1 << 20
BYTE_TOKENS = [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize("unit", ["a", "aab", "東京"])
def test_a_text_with_one_run_of_millions_of_letters(unit: str, tmp_path: Path) -> None:
    """It makes tokens of a million bytes; a table quadratic in them took minutes, and all memory."""
    text = unit * (3_000_000 // len(unit.encode()))
    made = Tokenizer.train_from_iterator([text, "the island"], 256 + 9 + 24)
    assert max(len(token or b"") for token in made.token_bytes()) > MILLION // 4
    assert made.decode(made.encode(text)) == text
    made.save(tmp_path / "vocabulary.json")
    write_hf(made, tmp_path / "tokenizer.json")
    write_tiktoken(made, tmp_path / "x.tiktoken")
    assert Tokenizer.load(tmp_path / "vocabulary.json") == made
    assert read_hf(tmp_path / "tokenizer.json") == made
    assert read_tiktoken(tmp_path / "x.tiktoken", PATTERN, made.special_tokens) == made


def halves(token: bytes) -> list[bytes]:
    return [token[: 1 << bits] for bits in range(1, 20)]


@pytest.mark.parametrize(
    "tokens",
    [
        [random.Random(1).randbytes(MILLION)],
        [*halves(b"a" * MILLION), b"a" * MILLION],
        [*halves(b"ab" * MILLION), b"ab" * (MILLION // 2)],
        [*halves(random.Random(2).randbytes(MILLION)), b"x" * MILLION],
        [random.Random(number).randbytes(10_000) for number in range(1000)],
        [b"a" * length for length in range(2, 1000)],
        [bytes([number % 7]) * 5000 + bytes([number % 256, number // 256]) for number in range(1000)],
    ],
    ids=["random", "a", "ab", "random halves", "a thousand", "every length", "one beginning"],
)
def test_vocabularies_of_long_tokens_are_made_at_once(tokens: list[bytes]) -> None:
    tokens = list(dict.fromkeys(tokens))
    made = Tokenizer.from_tokens([*BYTE_TOKENS, *tokens], {}, PATTERN)
    assert made.token_bytes()[256:] == tokens
    assert len(made.merges) <= len(tokens)


def test_a_piece_in_which_rules_wait_for_each_other_is_merged_at_once() -> None:
    """`ab` has to be merged before `abc`, which goes first: at each place, the rest of one rule waits for the other."""
    made = Tokenizer.from_tokens([*BYTE_TOKENS, b"abc", b"ab"], {}, PATTERN)
    assert made.encode("abc" * 1_000_000) == [256] * 1_000_000


def test_tokens_that_no_memory_holds_are_refused() -> None:
    with pytest.raises(DamagedArtifact, match="at most 256 MiB together"):
        Tokenizer.from_merges([(97, 97), *((256 + n, 256 + n) for n in range(60))])


def interrupted_after(seconds: float, work: Callable[[], object]) -> None:
    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_interrupts_the_encoding_of_a_large_batch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slow = Tokenizer.from_merges([], [], r"\w+?|\s|.")  # a regex engine, which takes a minute for all of it
    texts = ["the island " * 10_000] * 700
    out = np.full(sum(map(len, texts)), 7, np.uint16)
    interrupted_after(0.3, lambda: slow.encode_batch(texts, out=out))
    assert out[-1] == 7


def test_one_text_of_a_hundred_million_letters_is_encoded_as_others_are() -> None:
    """It takes long enough to be stopped, and so another way through the crate."""
    made = Tokenizer.from_merges([(97, 98), (256, 99)])
    ids = made.encode("abc d " * 11_500_000)
    assert ids[:6] == [257, 32, 100, 32, 257, 32] and len(ids) == 4 * 11_500_000 and ids[-1] == 32
