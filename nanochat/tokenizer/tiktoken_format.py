"""Vocabularies in tiktoken's format: ranks of byte strings.

A vocabulary that is read gives the same ids as `tiktoken.Encoding.encode_ordinary`, or is refused with one sentence.
"""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

from nanochat._rustbpe import PATTERN, derived_merges
from nanochat.errors import BadConfig, BadSource, DamagedArtifact
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.tokenizer.vocabulary_file import read_bytes, tokens_by_id


def tiktoken_ranks(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Bytes → rank, for `tiktoken.Encoding(mergeable_ranks=…)`.

    Raises `BadConfig` if tiktoken's rule (lowest rank first) would not give the same ids.
    """
    ranks = {token: rank for rank, token in enumerate(tokenizer.token_bytes()) if token is not None}
    if not (tokenizer.in_order or tokenizer.by_ranks or _merges_follow_ranks(tokenizer)):
        raise BadConfig(
            "The merges of this vocabulary are not in the order of its ids, which tiktoken needs.",
            hint="Write it as `tokenizer.json`.",
        )
    return ranks


def _merges_follow_ranks(tokenizer: Tokenizer) -> bool:
    """Whether tiktoken's rule gives the same result as the list of merges, ignoring pairs that cannot occur."""
    tokens = tokenizer.token_bytes()
    by_rank = derived_merges(tokens)
    possible = set(by_rank)
    if [pair for pair in tokenizer.merges if pair in possible] != by_rank:
        return False
    reachable = sum(token is not None and len(token) > 1 for token in tokens) == len(by_rank)
    return tokenizer.whole or reachable


def from_tiktoken_ranks(
    ranks: Mapping[bytes, int], pattern: str = PATTERN, special_tokens: Mapping[str, int] | None = None
) -> Tokenizer:
    """The vocabulary of `tiktoken.Encoding(pat_str=pattern, mergeable_ranks=ranks, special_tokens=…)`.

    Raises `BadSource` if two tokens have one rank, a single byte has none, or a special token is also an ordinary one.
    """
    if not isinstance(ranks, Mapping):
        raise TypeError(f"Ranks must be a mapping of bytes to ids, not {type(ranks).__name__}.")
    tokens = tokens_by_id(ranks)
    try:
        return Tokenizer.from_tokens(tokens, {} if special_tokens is None else special_tokens, pattern)
    except DamagedArtifact as error:
        raise BadSource(error.message, hint=error.hint) from error


def write_tiktoken(tokenizer: Tokenizer, path: Path | str) -> None:
    """Writes a `.tiktoken` file, one `base64 rank` per line; it has neither the pattern nor the special tokens."""
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in tiktoken_ranks(tokenizer).items()]
    Path(path).write_text("".join(lines))


def read_tiktoken(
    path: Path | str, pattern: str = PATTERN, special_tokens: Mapping[str, int] | None = None
) -> Tokenizer:
    """Reads a `.tiktoken` file. Raises `BadSource`, naming the invalid line."""
    lines: dict[bytes, int] = {}
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
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
        raise BadSource(f"`{path}` is not a vocabulary. {error.message}", hint=error.hint) from error
