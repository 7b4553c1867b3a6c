"""Vocabularies in Hugging Face's format, `tokenizer.json`.

A vocabulary that is read gives the same ids as the `tokenizers` library, or is refused with one sentence. This holds
for text: `encode(…, add_special_tokens=False)` with `encode_special_tokens = True`. Characters that are newer than that
library's Unicode tables may be split differently by it.
"""

import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat._rustbpe import PATTERNS, is_fast, split_pieces
from nanochat.errors import BadConfig, BadSource, DamagedArtifact
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.vocabulary_file import parse_json, read_bytes, tokens_by_id

HF_SPELLINGS = {
    # in its engine, `{1,3}+` is a nested repetition, and `$` matches at the end of any line
    PATTERNS["cl100k"]: PATTERNS["cl100k"].replace("{1,3}+", "{1,3}").replace(r"\s++$", r"\s++\z")
}
"""Our split patterns → the equivalent for Hugging Face's regex engine, where it differs."""
SAME_IN_BOTH_ENGINES = re.compile(
    r"(?:\\[pP]\{[LMNPSZ][a-z]?\}|\\[rntsS]|\\[^\w]|\[\^?|\(\?(?:[:=!]|<[=!])|\((?!\?)|\{\d+(?:,\d*)?\}(?![+?])"
    r"|[^\\(\[{}^$&.])*"
)
"""Matches regular expressions that mean the same to Hugging Face's engine and ours."""


# --- writing -------------------------------------------------------------------------------------------------------


def hf_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a `tokenizer.json` that gives the same ids in Hugging Face's `tokenizers`.

    Raises `BadConfig` if the split pattern or a special token would have another meaning there.
    """
    names = [None if token is None else encode_name(token) for token in tokenizer.token_bytes()]
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
        in_text = tokenizer.whole and not tokenizer.in_order and _is_a_piece(name, tokenizer.pattern)
        if name in vocab or in_text:
            raise BadConfig(f"Hugging Face's tokenizers would find the special token `{name}` in text.")
        if not tokenizer.in_order:
            vocab[name] = number


def _added_token(name: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": name, "special": True, **flags}


def _pattern_for_hf(pattern: str) -> str:
    if pattern in HF_SPELLINGS:
        return HF_SPELLINGS[pattern]
    if is_fast(pattern) or SAME_IN_BOTH_ENGINES.fullmatch(pattern):
        return pattern
    raise BadConfig(f"The split pattern `{pattern}` may have another meaning in Hugging Face's regex engine.")


# --- reading -------------------------------------------------------------------------------------------------------


def read_hf(path: Path | str) -> Tokenizer:
    """Reads `tokenizer.json`; see `from_hf_json`."""
    content = read_bytes(path)
    try:
        stored = parse_json(content)
    except ValueError as error:
        raise BadSource(f"`{path}` is not a valid JSON file: {error}.") from error
    try:
        return from_hf_json(stored)
    except BadSource as error:
        raise BadSource(f"`{path}` is not supported. {error.message}", hint=error.hint) from error


def from_hf_json(stored: Mapping[str, Any]) -> Tokenizer:
    """The vocabulary of a parsed `tokenizer.json`: byte-level byte-pair encoding with one split pattern.

    Raises `BadSource`, naming the field, for anything that would give other ids here.
    """
    try:
        _check_normalization(stored)
        pattern = _pattern_of_hf(stored.get("pre_tokenizer"))
        model = stored["model"]
        _check_model(model)
        vocab: dict[str, int] = model["vocab"]
        _check_unique("Two tokens have the id {} in `model.vocab`.", vocab.values())
        special_tokens = _special_tokens_of_hf(stored.get("added_tokens") or [], vocab)
        tokens = tokens_by_id(
            {
                decode_name(name): number
                for name, number in vocab.items()
                if name not in special_tokens and is_byte_name(name)
            }
        )
        merges = _merges_of_hf(model["merges"], vocab)
        whole = bool(model.get("ignore_merges", False))
        for name in special_tokens:
            if whole and name in vocab and _is_a_piece(name, pattern):
                raise BadSource(f"The special token `{name}` would be found in text.")
        tokenizer = Tokenizer.from_tokens(tokens, special_tokens, pattern, merges, whole)
        _check_added_ids(special_tokens, vocab)
        return tokenizer
    except DamagedArtifact as error:
        message = f"This `tokenizer.json` is not a byte-level vocabulary. {error.message}"
        raise BadSource(message, hint=error.hint) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadSource(f"This is not a `tokenizer.json` of a byte-pair encoding: {error!r}.") from error


def _check_normalization(stored: Mapping[str, Any]) -> None:
    normalizer = stored.get("normalizer")
    if normalizer and (normalizer["type"] != "Sequence" or normalizer["normalizers"]):
        raise BadSource(f"`normalizer` is {normalizer['type']}; only vocabularies without one are supported.")
    for name in ("truncation", "padding"):
        if stored.get(name):
            raise BadSource(f"`{name}` is set, which changes the ids of a text.", hint="Set it to null.")


def _check_model(model: Mapping[str, Any]) -> None:
    if model.get("type", "BPE") != "BPE":
        raise BadSource(f"`model.type` is {model['type']}; only BPE is supported.")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise BadSource(f"`model.{name}` is {model[name]!r}; only models without it are supported.")


def _pattern_of_hf(pre_tokenizer: Mapping[str, Any] | None) -> str:
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if pre_tokenizer else []
    if not parts or parts[-1]["type"] != "ByteLevel" or len(parts) > 2 or (len(parts) == 2) == _has_regex(parts[-1]):
        names = [part["type"] for part in parts]
        raise BadSource(
            f"`pre_tokenizer` is [{', '.join(names)}]; supported are ByteLevel with its own regex, and one Split "
            "before a ByteLevel without."
        )
    if parts[-1].get("add_prefix_space", True):
        raise BadSource("`pre_tokenizer` has `add_prefix_space`, which changes the text.")
    return _pattern_of_split(parts[0]) if len(parts) == 2 else PATTERNS["gpt2"]


def _has_regex(byte_level: Mapping[str, Any]) -> bool:
    return byte_level.get("use_regex", True)


def _pattern_of_split(split: Mapping[str, Any]) -> str:
    """The regex of a Split that keeps the whole text: matches are pieces, and so is the text between them."""
    if split["type"] != "Split" or "Regex" not in split["pattern"]:
        raise BadSource("`pre_tokenizer` does not split by a regex.")
    pattern = split["pattern"]["Regex"]
    ours = next((name for name, spelling in HF_SPELLINGS.items() if spelling == pattern), pattern)
    known = is_fast(ours) and pattern not in HF_SPELLINGS
    isolated = split["behavior"] == "Isolated"
    # text between matches would be removed, but known patterns leave none
    removed = split["behavior"] == "Removed" and split["invert"] and known
    if not (isolated or removed):
        raise BadSource(f"`pre_tokenizer` splits in a way that is not supported: {split['behavior']}.")
    if not known and not SAME_IN_BOTH_ENGINES.fullmatch(pattern):
        raise BadSource(f"The split pattern `{pattern}` may have another meaning in our regex engine.")
    return ours


def _check_unique(message: str, values: Iterable[Hashable]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise BadSource(message.format(value))
        seen.add(value)


def _check_added_ids(special_tokens: Mapping[str, int], vocab: Mapping[str, int]) -> None:
    """Raises `BadSource` if the library would give an added token another id than the file has."""
    highest = -1  # the library gives tokens that are not in the vocabulary the next free ids
    for name, number in special_tokens.items():
        given = vocab.get(name, highest + 1 if highest >= len(vocab) else len(vocab))
        if given != number:
            raise BadSource(
                f"`added_tokens` gives `{name}` the id {number}, and Hugging Face's tokenizers would give it {given}."
            )
        highest = max(highest, number)


def _special_tokens_of_hf(added: Sequence[Mapping[str, Any]], vocab: Mapping[str, int]) -> dict[str, int]:
    special_tokens = {}
    _check_unique("The special token `{}` is listed twice in `added_tokens`.", [token["content"] for token in added])
    for token in added:
        name, number = token["content"], token["id"]
        if not token.get("special", False):
            raise BadSource(f"The added token `{name}` is not special: the library would find it in text first.")
        if vocab.get(name, number) != number:
            raise BadSource(f"The special token `{name}` has two ids, {number} and {vocab[name]}.")
        special_tokens[name] = number
    return special_tokens


def _merges_of_hf(merges: Sequence[str | Sequence[str]], vocab: Mapping[str, int]) -> list[tuple[int, int]]:
    """Pairs of ids; of a pair that is listed twice, the last one counts."""
    pairs = []
    for place, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        for part in (left, right):
            if part not in vocab:
                raise BadSource(f"`model.merges[{place}]` names `{part}`, which is not a token.")
        if left + right not in vocab:
            raise BadSource(f"The merge of `{left}` and `{right}` is not a token.")
        pairs.append((vocab[left], vocab[right]))
    return list(dict.fromkeys(reversed(pairs)))[::-1]


def _is_a_piece(name: str, pattern: str) -> bool:
    """Whether some text is one piece, and its bytes have this name."""
    if not is_byte_name(name):
        return False
    text = decode_name(name).decode("utf-8", errors="replace")
    return split_pieces(text, pattern) == [text]


# --- names of tokens: GPT-2's alphabet, one printable character per byte ---------------------------------------------


def _byte_alphabet() -> list[str]:
    """The character of each byte: itself if it is printable, else one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


ALPHABET = dict(enumerate(_byte_alphabet()))
BYTE_OF = {character: byte for byte, character in ALPHABET.items()}


def encode_name(token: bytes) -> str:
    return token.decode("latin-1").translate(ALPHABET)


def decode_name(name: str) -> bytes:
    return bytes([BYTE_OF[character] for character in name])


def is_byte_name(name: str) -> bool:
    """Whether a name has characters of the alphabet only."""
    return BYTE_OF.keys() >= set(name)
