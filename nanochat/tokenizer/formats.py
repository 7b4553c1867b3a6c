"""Vocabularies in other programs' formats: tiktoken's ranks, Hugging Face's `tokenizer.json`.

What is read gives the same ids as the program it came from, or is refused in one sentence. The promise is for text:
special tokens are put in by id, and nothing is put around a text. That is tiktoken's `encode_ordinary`, and Hugging
Face's `encode(…, add_special_tokens=False)` with `encode_special_tokens = True`. Characters that are younger than the
other program's Unicode tables may be split differently by it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat._rustbpe import PATTERN, PATTERNS, derived_merges, is_fast, split_pieces
from nanochat.errors import BadConfig, BadSource, DamagedArtifact
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.special_tokens import MOST_IDS
from nanochat.tokenizer.vocabulary_file import parse_json

HF_SPELLINGS = {
    # there, `{1,3}+` is a repetition of a repetition, and `$` the end of any line
    PATTERNS["cl100k"]: PATTERNS["cl100k"].replace("{1,3}+", "{1,3}").replace(r"\s++$", r"\s++\z"),
}
"""Split patterns as Hugging Face's regex engine must be told them; others mean the same there."""
READ_ALIKE = re.compile(
    r"(?:\\[pP]\{[LMNPSZ][a-z]?\}|\\[rntsS]|\\[^\w]|\[\^?|\(\?(?:[:=!]|<[=!])|\((?!\?)|\{\d+(?:,\d*)?\}(?![+?])"
    r"|[^\\(\[{}^$&.])*"
)
"""Regular expressions in which nothing is read differently by Hugging Face's engine and ours."""


# --- tiktoken ---------------------------------------------------------------------------------------------------------


def tiktoken_ranks(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Bytes → rank, for `tiktoken.Encoding(mergeable_ranks=…)`; no two ids have the same bytes.

    Raises `BadConfig` if tiktoken's rule, the lowest rank first, would not give the same ids.
    """
    ranks = {token: rank for rank, token in enumerate(tokenizer.token_bytes()) if token is not None}
    if not (tokenizer.in_order or tokenizer.by_ranks or _merges_follow_ranks(tokenizer)):
        raise BadConfig(
            "The merges of this vocabulary are not in the order of its ids, which tiktoken needs.",
            hint="Write it as `tokenizer.json`.",
        )
    return ranks


def _merges_follow_ranks(tokenizer: Tokenizer) -> bool:
    """Whether tiktoken's rule comes to the same as the list of merges. Pairs that never meet do not count."""
    tokens = tokenizer.token_bytes()
    ruled = derived_merges(tokens)
    possible = set(ruled)
    if [pair for pair in tokenizer.merges if pair in possible] != ruled:
        return False
    reachable = sum(token is not None and len(token) > 1 for token in tokens) == len(ruled)
    return tokenizer.whole or reachable


def from_tiktoken_ranks(
    ranks: Mapping[bytes, int], pattern: str = PATTERN, special_tokens: Mapping[str, int] | None = None
) -> Tokenizer:
    """The vocabulary of `tiktoken.Encoding(pat_str=pattern, mergeable_ranks=ranks, special_tokens=…)`.

    Raises `BadSource` when two tokens have one rank, a single byte has none, or a special token is also another token.
    """
    if not isinstance(ranks, Mapping):
        raise TypeError(f"Ranks are a mapping of bytes to ids, not {type(ranks).__name__}.")
    tokens = _tokens_by_id(ranks)
    try:
        return Tokenizer.from_tokens(tokens, {} if special_tokens is None else special_tokens, pattern)
    except DamagedArtifact as error:
        raise BadSource(error.message, hint=error.hint) from error


def write_tiktoken(tokenizer: Tokenizer, path: Path | str) -> None:
    """A `.tiktoken` file: base64 of the bytes, a space, the rank. Pattern and special tokens are not in it."""
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in tiktoken_ranks(tokenizer).items()]
    Path(path).write_text("".join(lines))


def read_tiktoken(
    path: Path | str, pattern: str = PATTERN, special_tokens: Mapping[str, int] | None = None
) -> Tokenizer:
    """Reads a `.tiktoken` file. Raises `BadSource`, naming the line that is wrong."""
    lines: dict[bytes, int] = {}
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(_content(path).splitlines(), 1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            if not (token and rank.isdigit()):
                raise ValueError
            place = int(rank)
        except (ValueError, binascii.Error) as error:
            raise BadSource(f"Line {number} of `{path}` is not a token in base64, a space and a rank.") from error
        if token in ranks:
            raise BadSource(f"Lines {lines[token]} and {number} of `{path}` have the same token.")
        ranks[token], lines[token] = place, number
    try:
        return from_tiktoken_ranks(ranks, pattern, special_tokens)
    except BadSource as error:
        raise BadSource(f"`{path}` is no vocabulary. {error.message}", hint=error.hint) from error


def _content(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadSource(f"`{path}` cannot be read: {error.strerror or error}.") from error


def _tokens_by_id(ids: Mapping[bytes, int]) -> list[bytes | None]:
    for token, number in ids.items():
        if type(number) is not int or not 0 <= number < MOST_IDS:
            raise BadSource(
                f"The ids of a vocabulary are from 0 to {MOST_IDS - 1:,}; the token {token!r:.60} has {number!r:.40}."
            )
        if not isinstance(token, bytes) or not token:
            raise BadSource(f"The token {number} is {token!r:.60}, not one byte or more.")
    tokens: list[bytes | None] = [None] * (max(ids.values(), default=-1) + 1)
    for token, number in ids.items():
        if tokens[number] is not None:
            raise BadSource(f"Two tokens have the id {number}.")
        tokens[number] = token
    return tokens


# --- Hugging Face, writing --------------------------------------------------------------------------------------------


def hf_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """What Hugging Face's `tokenizers` loads, to the same ids.

    Raises `BadConfig` if the split pattern or a special token would mean something else there.
    """
    names = [None if token is None else _spelled(token) for token in tokenizer.token_bytes()]
    vocab = {name: number for number, name in enumerate(names) if name is not None}
    _add_special_tokens(vocab, tokenizer)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(name, number) for name, number in tokenizer.special_tokens.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": _pattern_for_hf(tokenizer.pattern)},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.whole,
            "vocab": vocab,
            "merges": [[names[left], names[right]] for left, right in tokenizer.merges],
        },
    }


def write_hf(tokenizer: Tokenizer, path: Path | str) -> None:
    """Writes `tokenizer.json`."""
    Path(path).write_text(json.dumps(hf_json(tokenizer), ensure_ascii=False), encoding="utf-8")


def _add_special_tokens(vocab: dict[str, int], tokenizer: Tokenizer) -> None:
    """Adds special tokens to the model's own vocabulary, unless they have the next free ids.

    A reader gives the next free ids to tokens that the vocabulary lacks, whatever the file contains.
    """
    for name, number in tokenizer.special_tokens.items():
        found = tokenizer.whole and not tokenizer.in_order and _is_a_piece(name, tokenizer.pattern)
        if name in vocab or found:
            raise BadConfig(f"Hugging Face's tokenizers would find the special token `{name}` in text.")
        if not tokenizer.in_order:
            vocab[name] = number


def _added_token(name: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": name, "special": True, **flags}


def _pattern_for_hf(pattern: str) -> str:
    if pattern in HF_SPELLINGS:
        return HF_SPELLINGS[pattern]
    if is_fast(pattern) or READ_ALIKE.fullmatch(pattern):
        return pattern
    raise BadConfig(f"The split pattern `{pattern}` may mean something else to Hugging Face's regex engine.")


# --- Hugging Face, reading --------------------------------------------------------------------------------------------


def read_hf(path: Path | str) -> Tokenizer:
    """Reads `tokenizer.json`; see `from_hf_json`."""
    content = _content(path)
    try:
        stored = parse_json(content)
    except ValueError as error:
        raise BadSource(f"`{path}` is not JSON, or not a file of this kind: {error}.") from error
    try:
        return from_hf_json(stored)
    except BadSource as error:
        raise BadSource(f"`{path}` is not read. {error.message}", hint=error.hint) from error


def from_hf_json(stored: Mapping[str, Any]) -> Tokenizer:
    """The vocabulary of a `tokenizer.json`: byte-level byte-pair encoding with one split pattern.

    `stored` is the parsed file. Raises `BadSource`, naming the field, when there is anything in it that would give
    other ids here.
    """
    try:
        _refuse_what_changes_text(stored)
        pattern = _pattern_of_hf(stored.get("pre_tokenizer"))
        model = stored["model"]
        _refuse_other_models(model)
        vocab: dict[str, int] = model["vocab"]
        _refuse_equal("Two tokens have the id {} in `model.vocab`.", vocab.values())
        special_tokens = _special_tokens_of_hf(stored.get("added_tokens") or [], vocab)
        tokens = _tokens_by_id(
            {
                bytes([BYTE_OF[character] for character in name]): number
                for name, number in vocab.items()
                if name not in special_tokens and BYTE_OF.keys() >= set(name)
            }
        )
        merges = _merges_of_hf(model["merges"], vocab)
        whole = bool(model.get("ignore_merges", False))
        for name in special_tokens:
            if whole and name in vocab and _is_a_piece(name, pattern):
                raise BadSource(f"The special token `{name}` would be found in text.")
        tokenizer = Tokenizer.from_tokens(tokens, special_tokens, pattern, merges, whole)
        _refuse_other_ids(special_tokens, vocab)
        return tokenizer
    except DamagedArtifact as error:
        message = f"This `tokenizer.json` is no byte-level vocabulary. {error.message}"
        raise BadSource(message, hint=error.hint) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadSource(f"This is no `tokenizer.json` of a byte-pair encoding: {error!r}.") from error


def _refuse_what_changes_text(stored: Mapping[str, Any]) -> None:
    normalizer = stored.get("normalizer")
    if normalizer and (normalizer["type"] != "Sequence" or normalizer["normalizers"]):
        raise BadSource(f"`normalizer` is {normalizer['type']}; text is encoded as it is here, without any.")
    for name in ("truncation", "padding"):
        if stored.get(name):
            raise BadSource(f"`{name}` is set; all ids of a text are given here, and no others.", hint="Make it null.")


def _refuse_other_models(model: Mapping[str, Any]) -> None:
    if model.get("type", "BPE") != "BPE":
        raise BadSource(f"`model.type` is {model['type']}, and only BPE is read here.")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise BadSource(f"`model.{name}` is {model[name]!r}, and only models without are read here.")


def _pattern_of_hf(pre_tokenizer: Mapping[str, Any] | None) -> str:
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if pre_tokenizer else []
    if not parts or parts[-1]["type"] != "ByteLevel" or len(parts) > 2 or (len(parts) == 2) == _has_regex(parts[-1]):
        names = [part["type"] for part in parts]
        raise BadSource(
            f"`pre_tokenizer` is [{', '.join(names)}]; read here are ByteLevel with its own regex, and one Split "
            "before a ByteLevel without."
        )
    if parts[-1].get("add_prefix_space", True):
        raise BadSource("`pre_tokenizer` has `add_prefix_space`, which changes the text.")
    return _pattern_of_split(parts[0]) if len(parts) == 2 else PATTERNS["gpt2"]


def _has_regex(byte_level: Mapping[str, Any]) -> bool:
    return byte_level.get("use_regex", True)


def _pattern_of_split(split: Mapping[str, Any]) -> str:
    """The regex of a Split that keeps all of a text: what matches, and what lies between, are pieces."""
    if split["type"] != "Split" or "Regex" not in split["pattern"]:
        raise BadSource("`pre_tokenizer` does not split by a regex.")
    pattern = split["pattern"]["Regex"]
    ours = next((name for name, spelling in HF_SPELLINGS.items() if spelling == pattern), pattern)
    known = is_fast(ours) and pattern not in HF_SPELLINGS
    isolated = split["behavior"] == "Isolated"
    # whatever lies between matches would be removed; known patterns leave nothing
    removed = split["behavior"] == "Removed" and split["invert"] and known
    if not (isolated or removed):
        raise BadSource(f"`pre_tokenizer` splits in a way that is not read here: {split['behavior']}.")
    if not known and not READ_ALIKE.fullmatch(pattern):
        raise BadSource(f"The split pattern `{pattern}` may mean something else to our regex engine.")
    return ours


def _refuse_equal(said: str, values: Iterable[Hashable]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise BadSource(said.format(value))
        seen.add(value)


def _refuse_other_ids(special_tokens: Mapping[str, int], vocab: Mapping[str, int]) -> None:
    """Tokens that are only added get the next free ids from Hugging Face's tokenizers, whatever the file says."""
    highest = -1
    for name, number in special_tokens.items():
        given = vocab.get(name, highest + 1 if highest >= len(vocab) else len(vocab))
        if given != number:
            raise BadSource(
                f"`added_tokens` gives `{name}` the id {number}, and Hugging Face's tokenizers would give it {given}."
            )
        highest = max(highest, number)


def _special_tokens_of_hf(added: Sequence[Mapping[str, Any]], vocab: Mapping[str, int]) -> dict[str, int]:
    special_tokens = {}
    _refuse_equal("The special token `{}` is listed twice in `added_tokens`.", [token["content"] for token in added])
    for token in added:
        name, number = token["content"], token["id"]
        if not token.get("special", False):
            raise BadSource(f"The added token `{name}` is not special: it would be found in text before all else.")
        if vocab.get(name, number) != number:
            raise BadSource(f"The special token `{name}` has two ids, {number} and {vocab[name]}.")
        special_tokens[name] = number
    return special_tokens


def _merges_of_hf(merges: Sequence[str | Sequence[str]], vocab: Mapping[str, int]) -> list[tuple[int, int]]:
    """Pairs of ids; of a pair that is there twice, the last counts."""
    pairs = []
    for place, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        for part in (left, right):
            if part not in vocab:
                raise BadSource(f"`model.merges[{place}]` names `{part}`, which is no token.")
        if left + right not in vocab:
            raise BadSource(f"The merge of `{left}` and `{right}` yields no token.")
        pairs.append((vocab[left], vocab[right]))
    return list(dict.fromkeys(reversed(pairs)))[::-1]


# --- the alphabet of bytes --------------------------------------------------------------------------------------------


def _byte_alphabet() -> list[str]:
    """A printable character for each byte: itself where it prints, else one from U+0100 on (GPT-2's convention)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


ALPHABET = dict(enumerate(_byte_alphabet()))
BYTE_OF = {character: byte for byte, character in ALPHABET.items()}


def _spelled(token: bytes) -> str:
    return token.decode("latin-1").translate(ALPHABET)


def _is_a_piece(name: str, pattern: str) -> bool:
    """Whether there is a text that is one piece, and is spelled like this in the alphabet of bytes."""
    if not BYTE_OF.keys() >= set(name):
        return False
    text = bytes([BYTE_OF[character] for character in name]).decode("utf-8", errors="replace")
    return split_pieces(text, pattern) == [text]
