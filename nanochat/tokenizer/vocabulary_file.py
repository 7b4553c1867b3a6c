"""The fields of `vocabulary.json`, each checked, because people edit the file by hand.

Format 1: ids are bytes, merges in order, special tokens in order. Format 2 lists the bytes of each id.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.errors import BadSource, DamagedArtifact
from nanochat.tokenizer.special_tokens import MAX_IDS

FIELDS = {
    1: {"format", "pattern", "specials", "merges"},
    2: {"format", "pattern", "specials", "merges", "tokens", "whole"},
}


@dataclass(frozen=True)
class StoredVocabulary:
    """The fields of a vocabulary, each of the right type."""

    pattern: str
    special_tokens: Any
    """A list of names, or, with `tokens`, an object of ids by name; their content is not checked here."""
    merges: list[tuple[int, int]] | None
    tokens: list[bytes | None] | None = None
    """Bytes by id; None: ids are in our order."""
    whole: bool = True


def parse_json(text: bytes) -> Any:
    """A JSON value. Raises `ValueError` if it is not JSON, nested too deeply, or has a name twice in one object."""
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"`{name:.60}` occurs twice")
        found[name] = value
    return found


def parse_vocabulary(stored: Any) -> StoredVocabulary:
    """The fields of a stored vocabulary. Raises `DamagedArtifact`, naming the field, if one is invalid."""
    if not isinstance(stored, dict):
        raise DamagedArtifact("It is not a JSON object.")
    number = stored.get("format")
    if type(number) is not int or number not in FIELDS:
        raise DamagedArtifact(f"`format` is {number!r:.40}; only 1 and 2 are supported.")
    for name in sorted(FIELDS[number] ^ stored.keys(), key=str):
        raise DamagedArtifact(
            f"`{name}` is missing." if name in FIELDS[number] else f"`{name:.60}` is an unknown field."
        )
    if not isinstance(stored["pattern"], str):
        raise DamagedArtifact("`pattern` is not a string.")
    if number == 1:
        return StoredVocabulary(stored["pattern"], _of_type(stored, "specials", list), _merges(stored["merges"]))
    merges = None if stored["merges"] is None else _merges(stored["merges"])
    tokens = [_token(number, token) for number, token in enumerate(_of_type(stored, "tokens", list))]
    specials, whole = _of_type(stored, "specials", dict), _of_type(stored, "whole", bool)
    return StoredVocabulary(stored["pattern"], specials, merges, tokens, whole)


def _of_type(stored: dict[str, Any], name: str, kind: type) -> Any:
    if type(stored[name]) is not kind:
        kinds = {list: "a list", dict: "an object", bool: "true or false"}
        raise DamagedArtifact(f"`{name}` is not {kinds[kind]}.")
    return stored[name]


def _merges(stored: Any) -> list[tuple[int, int]]:
    if type(stored) is not list:
        raise DamagedArtifact("`merges` is not a list.")
    for place, pair in enumerate(stored):
        if type(pair) is not list or len(pair) != 2 or not type(pair[0]) is type(pair[1]) is int:
            raise DamagedArtifact(f"`merges[{place}]` is {pair!r:.40}, not two ids.")
    return [(left, right) for left, right in stored]


def _token(number: int, stored: Any) -> bytes | None:
    if stored is None:
        return None
    try:
        token = base64.b64decode(stored, validate=True)
    except (TypeError, ValueError, binascii.Error):
        token = b""
    if not token:
        raise DamagedArtifact(f"`tokens[{number}]` is {stored!r:.40}, not bytes in base64.")
    return token


def read_bytes(path: Path | str) -> bytes:
    """The content of a file. Raises `BadSource` if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadSource(f"`{path}` cannot be read: {error.strerror or error}.") from error


def tokens_by_id(ids: Mapping[bytes, int]) -> list[bytes | None]:
    """The bytes of each id, None for ids without a token. Raises `BadSource` if two tokens have the same id."""
    for token, number in ids.items():
        if type(number) is not int or not 0 <= number < MAX_IDS:
            raise BadSource(f"Ids must be from 0 to {MAX_IDS - 1:,}; the token {token!r:.60} has {number!r:.40}.")
        if not isinstance(token, bytes) or not token:
            raise BadSource(f"The token {number} is {token!r:.60}, not a non-empty byte string.")
    tokens: list[bytes | None] = [None] * (max(ids.values(), default=-1) + 1)
    for token, number in ids.items():
        if tokens[number] is not None:
            raise BadSource(f"Two tokens have the id {number}.")
        tokens[number] = token
    return tokens
