"""The tokenizer: byte-pair encoding by the crate `rustbpe`.

    tokenizer = Tokenizer.train_from_iterator(texts, vocab_size=32_768)
    ids = tokenizer.encode("Hello!")                       # a list
    ids, offsets = tokenizer.encode_batch(texts)           # two arrays, no Python object per token

Ids of a vocabulary that is trained here: 0..255 are bytes, then the merges in the order of training, then the special
tokens. `tiktoken_format.py` and `huggingface_format.py` read vocabularies of other programs, whose ids may be in any
order. No text is encoded to a special token: callers insert special tokens by id.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nanochat import _rustbpe
from nanochat._rustbpe import PATTERN, derived_merges
from nanochat.config.base import canonical_json
from nanochat.errors import BadConfig, BadSource, DamagedArtifact, NoSuchToken
from nanochat.tokenizer.special_tokens import check_special_tokens, number_special_tokens
from nanochat.tokenizer.text_batches import Texts, arrow_chunks, as_strings, is_arrow
from nanochat.tokenizer.training import BYTES, thread_count, train_merges
from nanochat.tokenizer.vocabulary_file import parse_json, parse_vocabulary

SPECIALS = (
    "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",
    "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",
)  # fmt: skip
WIDE_FROM = 1 << 16
"""Vocabularies larger than this need 32 bits per id."""

if _rustbpe.DEBUG_BUILD:
    warnings.warn("nanochat's tokenizer is a debug build, which is many times slower", stacklevel=1)

Merges = Sequence[tuple[int, int]]
Ids = Sequence[int] | np.ndarray


class Tokenizer:
    """A vocabulary with its encoder and decoder. Threads may share one."""

    def __init__(
        self,
        encoder: _rustbpe.Encoder,
        special_tokens: Mapping[str, int],
        pattern: str = PATTERN,
        merges: Merges | None = None,
        whole: bool = True,
        in_order: bool = False,
    ) -> None:
        """Builds a tokenizer from consistent parts; the class methods create them and describe the parameters.

        Raises `DamagedArtifact` if a special token has the name or the id of another token.
        """
        if not _rustbpe.is_fast(pattern):
            known = ", ".join(_rustbpe.PATTERNS)
            warnings.warn(
                f"The split pattern `{pattern:.200}` has no scanner of its own, unlike {known}: a regex engine runs "
                "it, about fifty times slower.",
                stacklevel=3,
            )
        self.encoder = encoder
        self.pattern = pattern
        self._tokens = encoder.token_bytes()
        self.special_tokens: Mapping[str, int] = MappingProxyType(check_special_tokens(special_tokens, self._tokens))
        """Name → id; read-only."""
        self.whole = whole
        """Whether a piece of text that is a token is encoded as that token, even if the merges differ."""
        self.by_ranks = merges is None
        """Whether merges follow tiktoken's rule (lowest id first) and not a list."""
        self.in_order = in_order
        """Whether ids are bytes, then merges in order, then special tokens; tiktoken's rule then equals the list."""
        self._given_merges = merges
        self._special_names = {number: name for name, number in self.special_tokens.items()}
        self.vocab_size = max(len(self._tokens), *(number + 1 for number in self._special_names), BYTES)
        """One more than the highest id."""
        if in_order and sorted(self._special_names) != list(range(len(self._tokens), self.vocab_size)):
            raise DamagedArtifact("The ids of the special tokens do not follow those of the merges.")

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[type[Tokenizer], dict[str, Any]]]:
        """For `pickle` and `copy`: the content of `save`, which is checked when it is loaded."""
        return _from_stored, (type(self), self._stored())

    def __eq__(self, other: object) -> bool:
        """Whether all ids have the same meaning."""
        return self is other or (isinstance(other, Tokenizer) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.vocab_size:,} ids, {len(self.special_tokens)} of special tokens>"

    # --- making -------------------------------------------------------------------------------------------------------

    @classmethod
    def train_from_iterator(
        cls,
        texts: Texts | Iterable[Texts],
        vocab_size: int,
        *,
        pattern: str = PATTERN,
        special_tokens: Sequence[str] = SPECIALS,
        threads: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tokenizer:
        """Trains a vocabulary of `vocab_size` ids, including bytes and special tokens, in one pass over the texts.

        Texts are str, UTF-8 bytes, lists of these, or Arrow data, in any iterable; or Arrow data itself.
        `progress(merges done, merges wanted)` may raise to stop. The result does not depend on the number of threads
        (0: one per core). Raises `BadConfig` if `vocab_size` is too small for bytes and special tokens or too large for
        the text, or if the pattern is not a regular expression.
        """
        merges = train_merges(texts, vocab_size, special_tokens, pattern, threads, progress)
        try:
            return cls.from_merges(merges, special_tokens, pattern)
        except DamagedArtifact as error:  # a special token is also an ordinary one, or tokens are too long
            raise BadConfig(error.message, hint=error.hint) from error

    @classmethod
    def from_merges(cls, merges: Merges, special_tokens: Sequence[str] = SPECIALS, pattern: str = PATTERN) -> Tokenizer:
        """A vocabulary whose ids are bytes, `merges` in order, special tokens.

        Raises `DamagedArtifact` if a merge names a later id, or a special token is repeated or an ordinary token.
        """
        pairs = list(merges)
        names = number_special_tokens(special_tokens, BYTES + len(pairs))
        try:
            encoder = _rustbpe.Encoder(pairs, pattern)
        except (ValueError, OverflowError) as error:
            raise DamagedArtifact(f"These merges are not a vocabulary: {error}.") from error
        return cls(encoder, names, pattern, pairs, in_order=True)

    @classmethod
    def from_tokens(
        cls,
        tokens: Sequence[bytes | None],
        special_tokens: Mapping[str, int],
        pattern: str,
        merges: Merges | None = None,
        whole: bool = True,
    ) -> Tokenizer:
        """A vocabulary from the bytes of each id, None for ids without a token; all single bytes must be included.

        `merges` are pairs of ids in order of priority; None: tiktoken's rule. With `whole`, a piece that is a token is
        encoded as that token, even if the merges differ. Raises `DamagedArtifact` if this is not a vocabulary.
        """
        listed = None if merges is None else list(merges)
        if b"" in tokens:
            raise DamagedArtifact(
                f"The token {list(tokens).index(b'')} is empty.", hint="Use None for an id without a token."
            )
        names = check_special_tokens(special_tokens, tokens)
        ours = _merges_in_order(tokens, names) if whole else None
        if ours is not None and listed in (None, ours):
            return cls.from_merges(ours, _by_id(names), pattern)
        try:
            encoder = _rustbpe.Encoder.from_tokens(list(tokens), listed, pattern, whole)
        except (ValueError, OverflowError) as error:
            raise DamagedArtifact(f"These tokens are not a vocabulary: {error}.") from error
        return cls(encoder, names, pattern, listed, whole)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Reads `vocabulary.json`. Raises `DamagedArtifact`, naming the field, if it is not a vocabulary."""
        content = Path(path).read_bytes()
        try:
            return _from_stored(cls, parse_json(content))
        except DamagedArtifact as error:
            raise DamagedArtifact(f"`{path}` is not a vocabulary of nanochat. {error.message}") from error
        except ValueError as error:
            raise DamagedArtifact(f"`{path}` is not a vocabulary of nanochat: {error}.") from error

    def save(self, path: Path | str) -> None:
        """Writes `vocabulary.json`, in format 1 if ids are `in_order`, else in format 2, which lists all of them."""
        Path(path).write_text(canonical_json(self._stored()) + "\n", encoding="utf-8")

    def _stored(self) -> dict[str, Any]:
        if self.in_order:
            merges = [list(pair) for pair in self.merges]
            return {"format": 1, "pattern": self.pattern, "specials": _by_id(self.special_tokens), "merges": merges}
        return {
            "format": 2,
            "pattern": self.pattern,
            "specials": dict(self.special_tokens),
            "tokens": [None if token is None else base64.b64encode(token).decode() for token in self._tokens],
            "merges": None if self.by_ranks else [list(pair) for pair in self.merges],
            "whole": self.whole,
        }

    # --- what it is ---------------------------------------------------------------------------------------------------

    @cached_property
    def merges(self) -> list[tuple[int, int]]:
        """Pairs of ids in order of priority; for a vocabulary of ranks, those equivalent to tiktoken's rule."""
        return derived_merges(self._tokens) if self._given_merges is None else list(self._given_merges)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content that `save` writes, without its last newline."""
        return hashlib.sha256(canonical_json(self._stored()).encode()).hexdigest()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest dtype of an id: uint16 up to 65,536 ids, else uint32."""
        return np.dtype(np.uint32 if self.vocab_size > WIDE_FROM else np.uint16)

    @property
    def bos(self) -> int:
        return self.special("<|bos|>")

    def special(self, name: str) -> int:
        """Id of a special token such as `<|user_start|>`. Raises `NoSuchToken` if there is none of that name."""
        if name not in self.special_tokens:
            raise NoSuchToken(f"This vocabulary has no special token `{name}`.")
        return self.special_tokens[name]

    def token_bytes(self) -> list[bytes | None]:
        """Bytes of every id (vocab_size,), None for special tokens and for ids without a token."""
        return [*self._tokens, *[None] * (self.vocab_size - len(self._tokens))]

    def token_byte_lengths(self) -> np.ndarray:
        """Number of bytes of every id, (vocab_size,) int32; 0 for special tokens."""
        return np.array([len(token or b"") for token in self.token_bytes()], np.int32)

    def token_to_id(self, token: str | bytes) -> int | None:
        """Id of a special token's name, or of a token's text or bytes; None if there is none."""
        if isinstance(token, str) and token in self.special_tokens:
            return self.special_tokens[token]
        return self._ids.get(token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token)

    def id_to_token(self, number: int) -> str | None:
        """Text of an id, U+FFFD for bytes that are not UTF-8, or a special token's name; None if there is no token."""
        token = self._bytes.get(number)
        return None if token is None else token.decode("utf-8", errors="replace")

    def id_to_bytes(self, number: int) -> bytes:
        """Bytes of an id, or of a special token's name. Raises `NoSuchToken` if there is no token."""
        try:
            return self._bytes[number]
        except KeyError:
            raise self._no_such_token(number) from None

    def _no_such_token(self, number: int) -> NoSuchToken:
        return NoSuchToken(f"There is no token {number}: ids of this vocabulary are below {self.vocab_size:,}.")

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {token: number for number, token in enumerate(self._tokens) if token is not None}

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        named = {number: name.encode() for number, name in self._special_names.items()}
        return {number: token for token, number in self._ids.items()} | named

    # --- using it -----------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of a text. The names of special tokens are ordinary text, as in tiktoken's `encode_ordinary`."""
        return self.encoder.encode(text)

    def encode_batch(
        self,
        texts: Texts,
        threads: int = 0,
        before: int | None = None,
        after: int | None = None,
        out: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts in one array (N,) uint16 or uint32, and offsets (texts + 1,) int64 into it.

        `before` and `after` are ids added around every text; `threads` 0 uses all cores. For Arrow data, no Python
        object is created per text. `out` is an array of `dtype` that is written to and can be reused: the returned ids
        are its beginning. Raises `ValueError` if `out` is too small, `NoSuchToken` if `before` or `after` is not an id.
        """
        wide = self.dtype == np.uint32
        self._check_around(before, after)
        threads = thread_count(threads)
        if is_arrow(texts):
            return self.encoder.encode_buffers(arrow_chunks(texts), threads, wide, before, after, out)
        return self.encoder.encode_batch(as_strings(texts), threads, wide, before, after, out)

    def encode_parquet(
        self,
        path: Path | str,
        column: str | Sequence[str] = "text",
        threads: int = 0,
        before: int | None = None,
        after: int | None = None,
    ) -> Iterator[_rustbpe.Batch]:
        """Yields the ids of a Parquet file's texts, in order, about 4 MB of text at a time.

        A batch has `ids` (N,) and `offsets` (texts + 1,) as from `encode_batch`, and byte lengths and hashes of its
        texts. A null is an empty text, and bytes that are not UTF-8 become U+FFFD. A field of a struct is named by its
        parts, `("message", "content")`; a dot in a name is part of the name. The same threads read and encode; each
        holds a few batches in memory, whatever the size of a row group. Raises `BadSource` if the file is damaged, or
        does not have exactly one such column.
        """
        wide = self.dtype == np.uint32
        self._check_around(before, after)
        threads = thread_count(threads)
        parts = [column] if isinstance(column, str) else list(column)
        try:
            yield from self.encoder.encode_parquet(os.fsencode(path), parts, threads, wide, before, after)
        except (ValueError, OSError) as error:
            raise BadSource(f"`{path}` cannot be encoded: {str(error).rstrip('.')}.") from error

    def decode_bytes(self, ids: Ids) -> bytes:
        """Bytes of ids; special tokens become their names. Raises `NoSuchToken` (a `KeyError`) for an unknown id."""
        known = _crate_ids(ids)
        try:
            return self.encoder.decode(known)
        except (KeyError, OverflowError):  # special tokens or unknown ids
            return b"".join([self.id_to_bytes(int(number)) for number in known])

    def decode(self, ids: Ids) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_batch(self, batch: Iterable[Ids]) -> list[str]:
        return [self.decode(ids) for ids in batch]

    def decode_stream(self) -> DecodeStream:
        """A decoder for ids that come one by one."""
        return DecodeStream(self)

    def _check_around(self, *ids: int | None) -> None:
        for number in ids:
            if number is None or operator.index(number) in self._special_names:
                continue
            if not 0 <= number < len(self._tokens) or self._tokens[number] is None:
                raise self._no_such_token(number)


class DecodeStream:
    """Decodes ids that come one by one: returns a character once its last byte has arrived."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def step(self, *ids: int) -> str:
        """The characters that these ids complete."""
        return self._decoder.decode(self._tokenizer.decode_bytes(ids))

    def end(self) -> str:
        """U+FFFD if the last character is incomplete."""
        return self._decoder.decode(b"", final=True)


def _from_stored(cls: type[Tokenizer], content: Any) -> Tokenizer:
    """The vocabulary with the content `Tokenizer._stored`. Raises `DamagedArtifact` if it is not one."""
    fields = parse_vocabulary(content)
    if fields.tokens is None:
        return cls.from_merges(fields.merges or [], fields.special_tokens, fields.pattern)
    return cls.from_tokens(fields.tokens, fields.special_tokens, fields.pattern, fields.merges, fields.whole)


def _by_id(special_tokens: Mapping[str, int]) -> list[str]:
    return sorted(special_tokens, key=lambda name: special_tokens[name])


def _merges_in_order(tokens: Sequence[bytes | None], special_tokens: Mapping[str, int]) -> list[tuple[int, int]] | None:
    """The merges of a vocabulary whose ids are bytes, merges in order and special tokens; None for any other."""
    if list(tokens[:BYTES]) != [bytes([byte]) for byte in range(BYTES)] or None in tokens:
        return None
    if sorted(special_tokens.values()) != list(range(len(tokens), len(tokens) + len(special_tokens))):
        return None
    try:
        merges = derived_merges(list(tokens))
    except ValueError:  # not a vocabulary
        return None
    known = len(merges) == len(tokens) - BYTES and all(max(pair) < BYTES + i for i, pair in enumerate(merges))
    return merges if known else None


def _crate_ids(ids: Ids) -> list[int] | np.ndarray:
    if not isinstance(ids, np.ndarray):
        return ids if isinstance(ids, list) else list(ids)
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
        raise TypeError(f"Ids must be whole numbers (N,); this is an array {ids.shape} of {ids.dtype}.")
    if ids.dtype == np.uint64:
        return ids.tolist()  # int64 does not hold all of them
    return np.ascontiguousarray(ids if ids.dtype in (np.uint16, np.uint32, np.int64) else ids.astype(np.int64))
