"""Vocabularies go to Hugging Face's tokenizers and back, to the same ids."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from tokenizers import decoders, models, pre_tokenizers, trainers

from nanochat._rustbpe import PATTERNS
from nanochat.errors import BadConfig, BadSource
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.huggingface_format import from_hf_json, hf_json
from nanochat.tokenizer.tiktoken_format import from_tiktoken_ranks, tiktoken_ranks
from tests.parity.texts import ANY_TEXT, TEXTS, code_points, first_difference

NAMES = ("nanochat", "gpt2", "cl100k", "llama3", "o200k")
SMALL = {
    name: Tokenizer.train_from_iterator(TEXTS, 900, pattern=PATTERNS[name], special_tokens=["<|bos|>", "<|end|>"])
    for name in NAMES
}
every_pattern = pytest.mark.parametrize("name", NAMES)


def read_by_hf(stored: dict[str, Any]) -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer.from_str(json.dumps(stored))
    theirs.encode_special_tokens = True
    return theirs


def ids_of(theirs: tokenizers.Tokenizer, text: str) -> list[int]:
    return theirs.encode(text, add_special_tokens=False).ids


def trained_by_hf(split: pre_tokenizers.PreTokenizer, **model: Any) -> tokenizers.Tokenizer:
    """As GPT-2's was made: ids are the special tokens, the alphabet of bytes, the merges."""
    theirs = tokenizers.Tokenizer(models.BPE(**model))
    theirs.pre_tokenizer = split
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|endoftext|>", "[PAD]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(TEXTS, trainer)
    theirs.encode_special_tokens = True
    return theirs


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


THEIRS = {
    "gpt2": trained_by_hf(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama3": trained_by_hf(split_by(PATTERNS["llama3"]), ignore_merges=True),
    "o200k": trained_by_hf(split_by(PATTERNS["o200k"]), unk_token="<|endoftext|>"),
    "own": trained_by_hf(split_by(r"[a-z]+|\p{N}{1,2}|\s+")),
}


@every_pattern
def test_ours_gives_the_same_ids_there(name: str) -> None:
    ours, theirs = SMALL[name], read_by_hf(hf_json(SMALL[name]))
    for text in TEXTS[::3]:
        ids = ours.encode(text)
        assert ids_of(theirs, text) == ids
        assert theirs.decode(ids) == text
    assert theirs.token_to_id("<|end|>") == ours.special("<|end|>")
    assert theirs.get_vocab_size() == ours.vocab_size


@every_pattern
@settings(max_examples=200, deadline=None)
@given(text=ANY_TEXT)
def test_any_text_gives_the_same_ids_there(name: str, text: str) -> None:
    text = "".join(character for character in text if known(character))
    assert ids_of(READ[name], text) == SMALL[name].encode(text)


READ = {name: read_by_hf(hf_json(ours)) for name, ours in SMALL.items()}


def known(character: str) -> bool:
    """Whether Python's tables have it: the three programs' tables are of different years."""
    return unicodedata.category(character) != "Cn"


@every_pattern
def test_every_known_code_point_gives_the_same_ids_there(name: str) -> None:
    points = [point for point in code_points() if known(point) and unicodedata.category(point) != "Co"]
    for form in ("a{}b", " {}1", "'{}\n"):
        assert first_difference(SMALL[name].encode, lambda text: ids_of(READ[name], text), points, form) is None


@every_pattern
def test_ours_comes_back_as_it_was(name: str) -> None:
    again = from_hf_json(json.loads(json.dumps(hf_json(SMALL[name]))))
    assert (again.digest, again.special_tokens) == (SMALL[name].digest, SMALL[name].special_tokens)


@pytest.mark.parametrize("name", THEIRS)
def test_theirs_gives_the_same_ids_here(name: str) -> None:
    ours, theirs = from_hf_json(json.loads(THEIRS[name].to_str())), THEIRS[name]
    assert ours.vocab_size == theirs.get_vocab_size() == 900
    assert ours.special_tokens == {"<|endoftext|>": 0, "[PAD]": 1}
    for text in [*TEXTS, "<|endoftext|> [PAD] [PAD", "a" * 300, " " * 70]:
        assert ours.encode(text) == ids_of(theirs, text)
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("name", THEIRS)
@settings(max_examples=200, deadline=None)
@given(text=ANY_TEXT)
def test_theirs_gives_the_same_ids_for_any_text(name: str, text: str) -> None:
    text = "".join(character for character in text if known(character))
    assert IMPORTED[name].encode(text) == ids_of(THEIRS[name], text)


IMPORTED = {name: from_hf_json(json.loads(theirs.to_str())) for name, theirs in THEIRS.items()}


@pytest.mark.parametrize("name", THEIRS)
def test_theirs_goes_back_to_the_same_ids(name: str) -> None:
    again = read_by_hf(hf_json(IMPORTED[name]))
    for text in TEXTS[::5]:
        assert ids_of(again, text) == ids_of(THEIRS[name], text)
    assert again.get_vocab() == THEIRS[name].get_vocab()


def test_a_file_from_before_2022() -> None:
    """Merges are strings, `model.type` and `use_regex` are not there."""
    stored = json.loads(THEIRS["gpt2"].to_str())
    stored["model"] = {name: stored["model"][name] for name in ("vocab", "merges")}
    stored["model"]["merges"] = [" ".join(pair) for pair in stored["model"]["merges"]]
    del stored["pre_tokenizer"]["use_regex"]
    ours, theirs = from_hf_json(stored), read_by_hf(stored)
    for text in TEXTS[::5]:
        assert ours.encode(text) == ids_of(theirs, text)


def test_split_by_removal_of_the_rest() -> None:
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERNS["gpt2"]), "removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs = trained_by_hf(pre_tokenizers.Sequence([split, byte_level]))
    ours = from_hf_json(json.loads(theirs.to_str()))
    for text in TEXTS[::5]:
        assert ours.encode(text) == ids_of(theirs, text)


@pytest.mark.parametrize("whole", [True, False])
def test_merges_that_do_not_follow_the_ids(whole: bool) -> None:
    """Two of the same result, others out of order, and a token that no merge yields."""
    alphabet = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab = alphabet | {"ab": 300, "bc": 299, "abc": 290, "cab": 291, "abcabcx": 292}
    merges = [("b", "c"), ("a", "bc"), ("ab", "c"), ("a", "b"), ("c", "ab"), ("b", "c")]
    theirs = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=whole))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ours = from_hf_json(json.loads(theirs.to_str()))
    for text in ("abc", "cab", "abcabc", "cabcabcabcc", "bcbcab", "ab", "abcabcx", "aabbccab abc"):
        assert ours.encode(text) == ids_of(theirs, text)
        assert ours.encode_batch([text])[0].tolist() == ids_of(theirs, text)
    with pytest.raises(BadConfig, match="not in the order"):
        tiktoken_ranks(ours)


def test_ranks_go_there_by_way_of_derived_merges() -> None:
    """Ranks in any order have no merges of their own; Hugging Face's model needs them."""
    ranks = {token: rank + 5 for token, rank in tiktoken_ranks(SMALL["nanochat"]).items()}
    ranks[b"never merged"] = 4
    ours = from_tiktoken_ranks(ranks, PATTERNS["nanochat"], {"<|end|>": 2})
    theirs = read_by_hf(hf_json(ours))
    for text in [*TEXTS[::5], "never merged", "<|end|>"]:
        assert ids_of(theirs, text) == ours.encode(text)
    assert tiktoken_ranks(from_hf_json(hf_json(ours))) == ranks


def test_gpt2s_ranks_are_those_of_its_merges() -> None:
    """A special token takes the first ids, so ids are not in our order; tiktoken's rule holds all the same."""
    ranks = tiktoken_ranks(IMPORTED["gpt2"])
    again = from_tiktoken_ranks(ranks, PATTERNS["gpt2"], IMPORTED["gpt2"].special_tokens)
    for text in TEXTS[::5]:
        assert again.encode(text) == IMPORTED["gpt2"].encode(text)


def test_the_pattern_of_gpt4_is_spelled_for_their_engine() -> None:
    split = hf_json(SMALL["cl100k"])["pre_tokenizer"]["pretokenizers"][0]
    assert "{1,3}+" not in split["pattern"]["Regex"]
    stored = hf_json(SMALL["cl100k"])
    stored["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = PATTERNS["cl100k"]
    with pytest.raises(BadSource, match="may have another meaning"):
        from_hf_json(stored)
