"""The vocabulary in other programs' formats: tiktoken's ranks, Hugging Face's `tokenizer.json`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from nanochat._rustbpe import PATTERN
from nanochat.tokenizer.bpe import SPECIALS, Tokenizer


def tiktoken_ranks(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Bytes → rank, for `tiktoken.Encoding(mergeable_ranks=…)`; no two ids have the same bytes."""
    return {token: rank for rank, token in enumerate(tokenizer.token_bytes())}


def write_tiktoken(tokenizer: Tokenizer, path: Path) -> None:
    """A `.tiktoken` file: base64 of the bytes, a space, the rank."""
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in tiktoken_ranks(tokenizer).items()]
    path.write_text("".join(lines))


def hf_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """What Hugging Face's `tokenizers` loads, to the same ids."""
    alphabet = _byte_alphabet()
    names = ["".join(alphabet[byte] for byte in token) for token in tokenizer.token_bytes()]
    added = [
        {
            "id": tokenizer.special(name), "content": name, "special": True, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False,
        }
        for name in SPECIALS
    ]  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
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
            "ignore_merges": True,
            "vocab": {name: rank for rank, name in enumerate(names)},
            "merges": [[names[left], names[right]] for left, right in tokenizer.merges],
        },
    }


def write_hf(tokenizer: Tokenizer, path: Path) -> None:
    """Writes `tokenizer.json`."""
    path.write_text(json.dumps(hf_json(tokenizer), ensure_ascii=False), encoding="utf-8")


def _byte_alphabet() -> list[str]:
    """A printable character for each byte: itself where it prints, else one from U+0100 on (GPT-2's convention)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
