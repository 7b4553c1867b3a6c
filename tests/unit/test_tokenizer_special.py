"""Special tokens, and ids in files: none is lost, doubled or moved."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanochat._rustbpe import PATTERN
from nanochat.errors import BadConfig, BadSource, DamagedArtifact
from nanochat.tokenizer.bpe import SPECIALS, Tokenizer
from nanochat.tokenizer.huggingface_format import from_hf_json, hf_json, read_hf, write_hf
from nanochat.tokenizer.tiktoken_format import from_tiktoken_ranks, read_tiktoken, tiktoken_ranks, write_tiktoken
from nanochat.world.documents import documents

OURS = Tokenizer.train_from_iterator(documents(5, 0, 60), 400)
BYTE_TOKENS = [bytes([byte]) for byte in range(256)]

WRONG_LISTS: dict[str, tuple[Any, str]] = {
    "twice": (["<|bos|>", "<|end|>", "<|bos|>"], r"`<\|bos\|>` is listed twice"),
    "a text": ("<|bos|>", r"are a str \('<\|bos\|>'\), not a list"),
    "bytes": (b"<|bos|>", "are a bytes"),
    "ids by name": ({"<|bos|>": 256}, "are a dict"),
    "a set": ({"<|bos|>"}, "are a set"),
    "an iterator": (iter(["<|bos|>"]), "are a list_iterator"),
    "none": (None, "are a NoneType"),
    "a number": (["<|bos|>", 7], "is 7, of type int, not a name"),
    "bytes in it": ([b"<|bos|>"], "of type bytes, not a name"),
    "empty": (["<|bos|>", ""], "has an empty name"),
    "half a character": (["<\ud800>"], "lone surrogate"),
    "a byte": (["<|bos|>", "a"], "`a` is also the ordinary token 97"),
}


@pytest.mark.parametrize("what", WRONG_LISTS)
def test_a_wrong_list_of_special_tokens_is_refused(what: str) -> None:
    names, output = WRONG_LISTS[what]
    with pytest.raises(BadConfig, match=output):
        Tokenizer.train_from_iterator(["abc"], 300, special_tokens=names)
    with pytest.raises(DamagedArtifact, match=output):
        Tokenizer.from_merges([], names)


def test_a_special_token_that_training_produces_is_refused() -> None:
    with pytest.raises(BadConfig, match="`abab` is also the ordinary token 257"):
        Tokenizer.train_from_iterator(["abab abab"], 260, special_tokens=["abab"])


WRONG_IDS: dict[str, tuple[Any, str]] = {
    "one id": ({"<a>": 300, "<b>": 300}, "`<a>` and `<b>` have the same id, 300"),
    "another's": ({"<a>": 97}, "`<a>` has the id 97, which another token has"),
    "negative": ({"<a>": -1}, "has the id -1"),
    "huge": ({"<a>": 1 << 70}, "whole numbers below 16,777,216"),
    "a float": ({"<a>": 300.0}, r"has the id 300\.0"),
    "true": ({"<a>": True}, "has the id True"),
    "empty": ({"": 300}, "empty name"),
    "no name": ({300: 300}, "is 300, of type int"),
    "a byte": ({"a": 300}, "`a` is also the ordinary token 97"),
    "a list": (["<a>"], "are a list, not ids by name"),
    "a text": ("<a>", "are a str, not ids by name"),
}


@pytest.mark.parametrize("what", WRONG_IDS)
def test_wrong_ids_of_special_tokens_are_refused(what: str) -> None:
    ids, output = WRONG_IDS[what]
    with pytest.raises(DamagedArtifact, match=output):
        Tokenizer.from_tokens(BYTE_TOKENS, ids, PATTERN)
    with pytest.raises(BadSource, match=output):
        from_tiktoken_ranks({token: rank for rank, token in enumerate(BYTE_TOKENS)}, PATTERN, ids)


NAMES = {
    "ours": list(SPECIALS),
    "none": [],
    "beginning alike": ["<|a", "<|a|", "<|a|>", "<|a|>>"],
    "long": ["<" + "x" * 1_000_000 + ">", "<y>"],
    "other scripts": ["<東京>", "<🙂>", "\n\n\n<", " <|x|> "],
    "thousands": [f"<|{number}|>" for number in range(5000)],
}


@pytest.mark.parametrize("what", NAMES)
def test_ids_never_move_on_their_way_through_a_file(what: str, tmp_path: Path) -> None:
    made = Tokenizer.from_merges(OURS.merges, NAMES[what])
    made.save(tmp_path / "vocabulary.json")
    write_hf(made, tmp_path / "tokenizer.json")
    write_tiktoken(made, tmp_path / "x.tiktoken")
    read = [
        Tokenizer.load(tmp_path / "vocabulary.json"),
        read_hf(tmp_path / "tokenizer.json"),
        read_tiktoken(tmp_path / "x.tiktoken", PATTERN, made.special_tokens),
    ]
    assert list(made.special_tokens.values()) == list(range(391, 391 + len(NAMES[what])))
    for again in read:
        assert again == made
        assert again.special_tokens == made.special_tokens
        assert again.encode("the island") == made.encode("the island")
        for name, number in made.special_tokens.items():
            assert (again.special(name), again.decode([number])) == (number, name)


@pytest.mark.parametrize("order", [1, -1])
def test_ids_in_any_order_never_move(order: int, tmp_path: Path) -> None:
    tokens = [None, *OURS.token_bytes()[:391], None][::order]
    made = Tokenizer.from_tokens(tokens, {"<|b|>": 392, "<|a|>": 0, "<|c|>": 900}, PATTERN)
    made.save(tmp_path / "vocabulary.json")
    write_hf(made, tmp_path / "tokenizer.json")
    write_tiktoken(made, tmp_path / "x.tiktoken")
    for again in (
        Tokenizer.load(tmp_path / "vocabulary.json"),
        read_hf(tmp_path / "tokenizer.json"),
        read_tiktoken(tmp_path / "x.tiktoken", PATTERN, made.special_tokens),
    ):
        assert again.special_tokens == made.special_tokens
        assert again.token_bytes() == made.token_bytes()
        assert again.encode("the island") == made.encode("the island")


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [True, 300.5, 300.0, "300", None, [300]])
def test_a_size_that_is_no_whole_number(size: Any) -> None:
    with pytest.raises(BadConfig, match=r"`tokenizer\.vocab_size` is .*, not a whole number"):
        Tokenizer.train_from_iterator(["abc"], size)


@pytest.mark.parametrize("size", [-1, 0, 264, -(10**30)])
def test_a_size_without_room(size: int) -> None:
    with pytest.raises(BadConfig, match="is too small for the bytes and special tokens"):
        Tokenizer.train_from_iterator(["abc"], size)


@pytest.mark.parametrize("size", [10**30, 1 << 63, 1 << 32, (1 << 21) + 9])
def test_a_size_beyond_all_vocabularies(size: int) -> None:
    with pytest.raises(BadConfig, match=r"Set at most 2,097,160"):
        Tokenizer.train_from_iterator(["abc"], size)
    assert Tokenizer.train_from_iterator(["abc"], np.int64(267)).vocab_size == 267


@pytest.mark.parametrize("threads", [-1, 1.5, "2", True])
def test_wrong_numbers_of_threads(threads: Any) -> None:
    for call in (
        lambda: Tokenizer.train_from_iterator(["abc"], 265, threads=threads),
        lambda: OURS.encode_batch(["abc"], threads=threads),
        lambda: list(OURS.encode_parquet("x", threads=threads)),
    ):
        with pytest.raises(BadConfig, match="`threads`"):
            call()


def test_more_threads_than_there_can_be(tmp_path: Path) -> None:
    for threads in (10**9, 10**30):
        assert Tokenizer.train_from_iterator(["abcd"] * 9, 267, threads=threads).merges == [(97, 98), (99, 100)]
        assert OURS.encode_batch(["abc"] * 3, threads=threads)[1][-1] == 3 * len(OURS.encode("abc"))


# --- files edited by hand ---------------------------------------------------------------------------------------------


def stored(format: int) -> dict[str, Any]:
    plain = {"format": format, "pattern": PATTERN, "specials": ["<a>", "<b>"], "merges": [[97, 98], [256, 99]]}
    if format == 1:
        return plain
    tokens = [None, *(base64.b64encode(token).decode() for token in reversed([*BYTE_TOKENS, b"ab"]))]
    return plain | {"specials": {"<a>": 0, "<b>": 300}, "tokens": tokens, "merges": None, "whole": True}


EDITED: dict[str, tuple[int, Callable[[dict[str, Any]], object], str]] = {
    "name twice": (1, lambda s: s["specials"].append("<a>"), "`<a>` is listed twice"),
    "names as text": (1, lambda s: s.update(specials="<a>"), "`specials` is not a list"),
    "a name that is a byte": (1, lambda s: s["specials"].append("b"), "`b` is also the ordinary token 98"),
    "merge twice": (1, lambda s: s["merges"].append([97, 98]), "merge 2 makes bytes that another id has already"),
    "merge of floats": (1, lambda s: s["merges"].append([97.9, 98]), r"`merges\[2\]` is \[97\.9, 98\], not two ids"),
    "merge of texts": (1, lambda s: s["merges"].append("ab"), r"`merges\[2\]` is 'ab'"),
    "merge of true": (1, lambda s: s["merges"].append([True, 98]), r"`merges\[2\]`"),
    "merge of later ids": (1, lambda s: s["merges"].append([300, 98]), "merge 2 names an id that comes later"),
    "merge of huge ids": (1, lambda s: s["merges"].append([1 << 70, 98]), "not a vocabulary"),
    "merge of negative ids": (1, lambda s: s["merges"].append([-1, 98]), "not a vocabulary"),
    "no merges": (1, lambda s: s.update(merges=None), "`merges` is not a list"),
    "a field too many": (1, lambda s: s.update(tokens=[]), "`tokens` is an unknown field"),
    "a field missing": (2, lambda s: s.pop("whole"), "`whole` is missing"),
    "format as text": (1, lambda s: s.update(format="1"), "`format` is '1'"),
    "format true": (1, lambda s: s.update(format=True), "`format` is True"),
    "no pattern": (1, lambda s: s.update(pattern=None), "`pattern` is not a string"),
    "no base64": (2, lambda s: s["tokens"].append("Y*Q=="), r"`tokens\[258\]` is 'Y\*Q=='"),
    "an empty token": (2, lambda s: s["tokens"].append(""), r"`tokens\[258\]`"),
    "a token twice": (2, lambda s: s["tokens"].append("YWI="), "token 258 has the bytes of another"),
    "one id twice": (2, lambda s: s["specials"].update({"<c>": 300}), "`<b>` and `<c>` have the same id, 300"),
    "an id in use": (2, lambda s: s["specials"].update({"<c>": 9}), "`<c>` has the id 9, which another"),
    "an id as text": (2, lambda s: s["specials"].update({"<c>": "9"}), "`<c>` has the id '9'"),
    "no truth": (2, lambda s: s.update(whole=1), "`whole` is not true or false"),
    "an id far away": (2, lambda s: s["specials"].update({"<c>": 1 << 40}), "whole numbers below"),
    "endless doubling": (
        1, lambda s: s.update(merges=[[97, 97], *([256 + n, 256 + n] for n in range(60))]), "at most 256 MiB"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", EDITED)
def test_a_vocabulary_edited_wrongly_is_refused_by_file_and_field(what: str, tmp_path: Path) -> None:
    format, change, output = EDITED[what]
    path = tmp_path / "vocabulary.json"
    content = stored(format)
    path.write_text(json.dumps(content))
    Tokenizer.load(path)
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedArtifact, match=output) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ['{"format": 2, "specials": {"<a>": 1, "<a>": 2}}', "[" * 100_000, '{"format": ' + "9" * 5000 + "}", "\xff"],
    ids=["a name twice", "deep", "digits", "latin-1"],
)
def test_json_that_misleads_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedArtifact, match=r"x\.json"):
        Tokenizer.load(tmp_path / "x.json")
    with pytest.raises(BadSource, match=r"x\.json"):
        read_hf(tmp_path / "x.json")


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Tokenizer.load(tmp_path / "x")
    for read in (read_hf, read_tiktoken):
        with pytest.raises(BadSource, match="cannot be read: No such file"):
            read(tmp_path / "x")
        with pytest.raises(BadSource, match="cannot be read: Is a directory"):
            read(tmp_path)


# --- other programs' files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "output"),
    [
        ("YQ== 0\nYg== 1\nYQ== 2\n", "Lines 1 and 3 of .* have the same token"),
        ("YQ== 0\nYQ== 0\n", "Lines 1 and 2 of .* have the same token"),
        ("YQ== 1_0\n", "Line 1 of"),
        ("YQ== +1\n", "Line 1 of"),
        ("YQ== -1\n", "Line 1 of"),
        ("YQ== " + "9" * 5000 + "\n", "Line 1 of"),
        ("YQ== 99999999999\n", "x.tiktoken` is not a vocabulary. Ids must be from"),
        ("YQ== 0\nYg== 0\n", "x.tiktoken` is not a vocabulary. Two tokens have the id 0"),
        ("", "x.tiktoken` is not a vocabulary. .* byte 0x00 has no token"),
    ],
)
def test_ranks_that_mislead_are_refused(lines: str, output: str, tmp_path: Path) -> None:
    (tmp_path / "x.tiktoken").write_text(lines)
    with pytest.raises(BadSource, match=output):
        read_tiktoken(tmp_path / "x.tiktoken")


@pytest.mark.parametrize(
    ("token", "rank"), [(b"ab", True), (b"ab", 300.0), (b"ab", "300"), (b"ab", None), ("ab", 300), (b"", 300)]
)
def test_ranks_of_wrong_types_are_refused(token: Any, rank: Any) -> None:
    with pytest.raises(BadSource, match=r"(Ids must be from|The token 300 is)"):
        from_tiktoken_ranks({**tiktoken_ranks(OURS), token: rank})


def hf_changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    content = json.loads(json.dumps(hf_json(OURS)))
    change(content)
    return content


def added(content: str, number: int) -> Callable[[dict[str, Any]], object]:
    return lambda s: s["added_tokens"].append({"id": number, "content": content, "special": True})


MISLEADING: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "added twice": (added("<|bos|>", OURS.bos), r"`<\|bos\|>` is listed twice"),
    "added twice, otherwise": (added("<|bos|>", 400), r"`<\|bos\|>` is listed twice"),
    "two added with one id": (added("<|x|>", OURS.bos), r"`<\|bos\|>` and `<\|x\|>` have the same id"),
    "not the next id": (added("<|x|>", 500), r"`<\|x\|>` the id 500, and Hugging Face's tokenizers would give it 400"),
    "a hole below": (lambda s: s["model"]["vocab"].update(zzzz=600), "would give it 392"),
    "ids of one vocabulary twice": (lambda s: s["model"]["vocab"].update({"\u2581a": 97}), "Two tokens have the id 97"),
    "merge of no token": (lambda s: s["model"]["merges"].append(["zzz", "a"]), r"`model\.merges\[135\]` names `zzz`"),
    "id as text": (lambda s: s["model"]["vocab"].update(zzzz="600"), "has '600'"),
    "id true": (lambda s: s["model"]["vocab"].update(zzzz=True), "Two tokens have the id|has True"),
    "empty name": (added("", 400), "empty name"),
    "merges of a text": (lambda s: s["model"].update(merges="abc"), "not a `tokenizer.json`"),
    "vocab of a list": (lambda s: s["model"].update(vocab=["a"]), "not a `tokenizer.json`"),
}


@pytest.mark.parametrize("what", MISLEADING)
def test_a_tokenizer_json_that_misleads_is_refused(what: str) -> None:
    change, output = MISLEADING[what]
    with pytest.raises(BadSource, match=output):
        from_hf_json(hf_changed(change))
