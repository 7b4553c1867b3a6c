"""Other programs' vocabularies: written and read back, or refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat._rustbpe import PATTERN, PATTERNS
from nanochat.errors import BadConfig, BadSource
from nanochat.tokenizer.bpe import SPECIALS, Tokenizer
from nanochat.tokenizer.huggingface_format import from_hf_json, hf_json, read_hf, write_hf
from nanochat.tokenizer.tiktoken_format import from_tiktoken_ranks, read_tiktoken, tiktoken_ranks, write_tiktoken
from nanochat.world.documents import documents

OURS = Tokenizer.train_from_iterator(documents(5, 0, 100), 500)
BYTE_TOKENS = {bytes([byte]): byte for byte in range(256)}
SPECIAL_IDS = {name: OURS.special(name) for name in SPECIALS}


def test_tiktoken_there_and_back(tmp_path: Path) -> None:
    write_tiktoken(OURS, tmp_path / "tokenizer.tiktoken")
    again = read_tiktoken(tmp_path / "tokenizer.tiktoken", PATTERN, SPECIAL_IDS)
    assert (again.digest, again.merges) == (OURS.digest, OURS.merges)


def test_hugging_face_there_and_back(tmp_path: Path) -> None:
    write_hf(OURS, tmp_path / "tokenizer.json")
    assert read_hf(tmp_path / "tokenizer.json").digest == OURS.digest
    assert read_hf(str(tmp_path / "tokenizer.json")).digest == OURS.digest


def test_ranks_with_special_tokens_between_them() -> None:
    ranks = {token: rank * 2 for token, rank in tiktoken_ranks(OURS).items()}
    made = from_tiktoken_ranks(ranks, PATTERN, {"<|end|>": 7})
    assert made.encode("the island") == [2 * number for number in OURS.encode("the island")]
    assert (tiktoken_ranks(made), made.decode([7, 2 * 97])) == (ranks, "<|end|>a")
    again = from_hf_json(hf_json(made))
    assert (again.encode("the island"), again.special_tokens) == (made.encode("the island"), {"<|end|>": 7})


@pytest.mark.parametrize(
    ("ranks", "specials", "output"),
    [
        ({}, {}, "bytes? (is|are)|byte"),
        ({**BYTE_TOKENS, b"ab": 97}, {}, "Two tokens have the id 97"),
        ({**BYTE_TOKENS, b"ab": -1}, {}, "Ids must be from"),
        ({**BYTE_TOKENS, b"ab": 1 << 60}, {}, "Ids must be from"),
        (BYTE_TOKENS, {"<|end|>": 97}, "`<|end|>` has the id 97"),
    ],
)
def test_ranks_that_are_no_vocabulary(ranks: dict[bytes, int], specials: dict[str, int], output: str) -> None:
    with pytest.raises(BadSource, match=output.replace("|end|", r"\|end\|")):
        from_tiktoken_ranks(ranks, PATTERN, specials)


@pytest.mark.parametrize("line", ["YQ==", "YQ== x", "YQ== 1 2", "?? 1", "YQ=== 1"])
def test_a_line_that_is_no_rank_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tiktoken"
    path.write_text(f"IQ== 0\n\n{line}\n")
    with pytest.raises(BadSource, match=r"Line 3 of `.*x\.tiktoken`"):
        read_tiktoken(path)


def test_a_pattern_that_means_something_else_there() -> None:
    made = Tokenizer.from_merges([], [], r"(?i:ss)|\w+$|.")
    with pytest.raises(BadConfig, match="may have another meaning"):
        hf_json(made)


def test_a_special_token_that_would_be_found_there() -> None:
    tokens = [None, *(bytes([byte]) for byte in range(256))]
    with pytest.raises(BadConfig, match="`pad` in text"):
        hf_json(Tokenizer.from_tokens(tokens, {"pad": 0}, PATTERN))
    spelled_alike = Tokenizer.from_merges([(32, 97)], ["\u0120a"])  # as " a" is spelled there
    with pytest.raises(BadConfig, match="in text"):
        hf_json(spelled_alike)


# --- tokenizer.json ---------------------------------------------------------------------------------------------------


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    stored = json.loads(json.dumps(hf_json(OURS)))
    change(stored)
    return stored


def in_model(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda stored: stored["model"].update(fields)


def in_split(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda stored: stored["pre_tokenizer"]["pretokenizers"][0].update(fields)


def in_byte_level(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda stored: stored["pre_tokenizer"]["pretokenizers"][1].update(fields)


def with_added(**fields: Any) -> Callable[[dict[str, Any]], object]:
    token = {"id": 500, "content": "<|new|>", "special": True, **fields}
    return lambda stored: stored["added_tokens"].append(token)


def split_twice(stored: dict[str, Any]) -> None:
    parts = stored["pre_tokenizer"]["pretokenizers"]
    parts.insert(0, parts[0])


def whole_word(stored: dict[str, Any]) -> None:
    stored["model"]["vocab"]["pad"] = 500
    with_added(content="pad")(stored)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "normalizer": (lambda stored: stored.update(normalizer={"type": "NFC"}), "`normalizer` is NFC"),
    "truncation": (lambda stored: stored.update(truncation={"max_length": 512}), "`truncation` is set"),
    "padding": (lambda stored: stored.update(padding={"strategy": "BatchLongest"}), "`padding` is set"),
    "no split": (lambda stored: stored.update(pre_tokenizer=None), r"`pre_tokenizer` is \[\]"),
    "another split": (lambda stored: stored.update(pre_tokenizer={"type": "Whitespace"}), r"is \[Whitespace\]"),
    "two splits": (split_twice, r"is \[Split, Split, ByteLevel\]"),
    "two regexes": (in_byte_level(use_regex=True), r"is \[Split, ByteLevel\]"),
    "prefix space": (in_byte_level(add_prefix_space=True), "add_prefix_space"),
    "string": (in_split(pattern={"String": " "}), "does not split by a regex"),
    "not a Split": (in_split(type="Digits"), "does not split by a regex"),
    "behavior": (in_split(behavior="MergedWithNext"), "not supported: MergedWithNext"),
    "removed": (in_split(behavior="Removed"), "not supported: Removed"),
    "removed gaps": (in_split(behavior="Removed", invert=True, pattern={"Regex": r"\p{L}+"}), "not supported: Removed"),
    "pattern": (in_split(pattern={"Regex": r"^\w+|(?i:ss)|."}), "may have another meaning"),
    "broken pattern": (in_split(pattern={"Regex": "["}), "not a `tokenizer.json`"),
    "model": (in_model(type="WordPiece"), "`model.type` is WordPiece"),
    "dropout": (in_model(dropout=0.1), "`model.dropout` is 0.1"),
    "prefix": (in_model(continuing_subword_prefix="##"), "`model.continuing_subword_prefix` is '##'"),
    "suffix": (in_model(end_of_word_suffix="</w>"), "`model.end_of_word_suffix` is '</w>'"),
    "no merges": (lambda stored: stored["model"].pop("merges"), "merges"),
    "merge of nothing": (in_model(merges=[["a", "\u0100"]]), "is not a token"),
    "merge of three": (in_model(merges=["a b c"]), "not a `tokenizer.json`"),
    "no bytes": (lambda stored: stored["model"]["vocab"].pop("a"), "a"),
    "same id": (lambda stored: stored["model"]["vocab"].update(xyz=97), "Two tokens have the id 97"),
    "not special": (with_added(special=False), r"`<\|new\|>` is not special"),
    "id in use": (with_added(id=97), r"`<\|new\|>` has the id 97"),
    "two ids": (with_added(content="a"), "`a` has two ids, 500 and 97"),
    "a word": (whole_word, "`pad` would be found in text"),
    "not even a file of theirs": (lambda stored: stored.clear(), "not a `tokenizer.json`|pre_tokenizer"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_give_other_ids_is_refused(what: str) -> None:
    change, output = REFUSED[what]
    with pytest.raises(BadSource, match=output):
        from_hf_json(changed(change))


READ: dict[str, Callable[[dict[str, Any]], object]] = {
    "empty normalizer": lambda stored: stored.update(normalizer={"type": "Sequence", "normalizers": []}),
    "post-processor": lambda stored: stored.update(post_processor={"type": "TemplateProcessing"}),
    "unknown token": in_model(unk_token="<unk>", dropout=0.0, end_of_word_suffix=""),
    "removal of nothing": in_split(behavior="Removed", invert=True),
    "merges as strings": lambda stored: in_model(merges=[" ".join(pair) for pair in stored["model"]["merges"]])(stored),
}


@pytest.mark.parametrize("what", READ)
def test_what_changes_no_id_is_read(what: str) -> None:
    assert from_hf_json(changed(READ[what])).digest == OURS.digest


def test_gpt2s_pre_tokenizer() -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    for pre_tokenizer in (byte_level, {"type": "Sequence", "pretokenizers": [byte_level]}):
        made = from_hf_json(changed(lambda stored, given=pre_tokenizer: stored.update(pre_tokenizer=given)))
        assert made.pattern == PATTERNS["gpt2"]


@pytest.mark.parametrize("text", ["", "[1", "\ufeff{}"])
def test_a_file_that_is_no_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(BadSource, match="is not a valid JSON file"):
        read_hf(tmp_path / "tokenizer.json")
