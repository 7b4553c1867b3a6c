"""The tokenizer: byte-pair encoding by our own crate.

    tokenizer = Tokenizer.train_from_iterator(texts, vocab_size=32_768)
    ids = tokenizer.encode("Hello!")                       # a list
    ids, offsets = tokenizer.encode_batch(texts)           # two arrays, and no Python object a token

Ids of a vocabulary that is made here: 0..255 are bytes, then the merges in the order in which they were learnt, then
the special tokens. `formats.py` reads vocabularies of other programs, whose ids may be in any order. In all of them,
text never becomes a special token: those are put in by id, on purpose.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nanochat import _rustbpe
from nanochat._rustbpe import PATTERN
from nanochat.config import canonical_json
from nanochat.errors import BadConfig, BadSource, DamagedArtifact
from nanochat.tokenizer.merges import derived_merges
from nanochat.tokenizer.texts import Texts, arrow_chunks, as_strings, feed, is_arrow

SPECIALS = (
    "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",
    "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",
)  # fmt: skip
BYTES = 256
WIDE_FROM = 1 << 16
"""Vocabularies larger than this need 32 bits an id."""

if _rustbpe.DEBUG_BUILD:
    warnings.warn("nanochat's tokenizer is a debug build: it is many times slower", stacklevel=1)

Merges = Sequence[tuple[int, int]]
Ids = Sequence[int] | np.ndarray


class Tokenizer:
    """A vocabulary, and how to use it. Threads may share one."""

    def __init__(
        self,
        encoder: _rustbpe.Encoder,
        special_tokens: Mapping[str, int],
        pattern: str = PATTERN,
        merges: Merges | None = None,
        whole: bool = True,
        in_order: bool = False,
    ) -> None:
        """Of parts that fit each other; to make one, take a class method, which says what the words mean.

        Raises `DamagedArtifact` when a special token has the id of another token.
        """
        if not _rustbpe.is_fast(pattern):
            known = ", ".join(_rustbpe.PATTERNS)
            warnings.warn(
                f"The split pattern `{pattern}` has no scanner of its own ({known} have): a regex engine runs it, "
                "about fifty times slower.",
                stacklevel=3,
            )
        self.encoder = encoder
        self.pattern = pattern
        self.special_tokens = dict(special_tokens)
        """Name → id."""
        self.whole = whole
        """Whether a piece of text that is a token is that token, whatever the merges say."""
        self.by_ranks = merges is None
        """Whether merges follow tiktoken's rule, the lowest id first, and not a list."""
        self.in_order = in_order
        """Whether ids are bytes, then merges in order, then special tokens: tiktoken's rule and the list are one."""
        self._given_merges = merges
        self._special_names = {number: name for name, number in self.special_tokens.items()}
        self._tokens = encoder.token_bytes()
        self.vocab_size = max(len(self._tokens), *(number + 1 for number in self._special_names), BYTES)
        """One more than the highest id."""
        self._check_special_tokens()

    def _check_special_tokens(self) -> None:
        if len(self._special_names) < len(self.special_tokens):
            raise DamagedArtifact("Two special tokens have the same id.")
        for number, name in self._special_names.items():
            if number < 0 or (number < len(self._tokens) and self._tokens[number] is not None):
                raise DamagedArtifact(f"The special token `{name}` has the id {number}, which it cannot have.")

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
        """Learns `vocab_size` ids in all, the bytes and special tokens among them; the texts are gone through once.

        Texts are str, UTF-8 bytes, lists of these, or Arrow, in any iterable; or Arrow itself. `progress(merges learnt,
        merges wanted)` may raise to stop. Deterministic, whatever the number of threads (0: one a core). Raises
        `BadConfig` when the vocabulary has no room for bytes and special tokens, the text does not hold so many merges,
        or the pattern is no regular expression.
        """
        wanted = vocab_size - BYTES - len(special_tokens)
        if wanted < 0:
            raise BadConfig(
                f"`tokenizer.vocab_size` = {vocab_size} has no room for bytes and special tokens.",
                hint=f"Take at least {BYTES + len(special_tokens)}.",
            )
        try:
            trainer = _rustbpe.Trainer(threads, pattern)
        except ValueError as error:
            raise BadConfig(f"`{pattern}` cannot split text: {error}.") from error
        feed(texts, trainer.add, trainer.add_buffers)
        merges = trainer.merges(wanted, (lambda done: progress(done, wanted)) if progress else None)
        if len(merges) < wanted:
            largest = BYTES + len(special_tokens) + len(merges)
            raise BadConfig(
                f"`tokenizer.vocab_size` = {vocab_size:,}: this text holds only {len(merges):,} merges.",
                hint=f"Take at most {largest:,}, or more text.",
            )
        return cls.from_merges(merges, special_tokens, pattern)

    @classmethod
    def from_merges(cls, merges: Merges, special_tokens: Sequence[str] = SPECIALS, pattern: str = PATTERN) -> Tokenizer:
        """Ids are bytes, `merges` in order, special tokens. Raises `DamagedArtifact` if merges name later ids."""
        try:
            encoder = _rustbpe.Encoder(merges, pattern)
        except ValueError as error:
            raise DamagedArtifact(f"These merges are no vocabulary: {error}.") from error
        names = {name: BYTES + len(merges) + place for place, name in enumerate(special_tokens)}
        return cls(encoder, names, pattern, [(left, right) for left, right in merges], in_order=True)

    @classmethod
    def from_tokens(
        cls,
        tokens: Sequence[bytes | None],
        special_tokens: Mapping[str, int],
        pattern: str,
        merges: Merges | None = None,
        whole: bool = True,
    ) -> Tokenizer:
        """Of bytes for each id, None where there are none; all single bytes must be there.

        `merges` are pairs of ids in order of priority; None: tiktoken's rule. With `whole`, a piece that is a token is
        that token, whatever the merges say. Raises `DamagedArtifact` if this is no vocabulary.
        """
        listed = None if merges is None else list(merges)
        ours = _merges_in_order(tokens, special_tokens) if whole else None
        if ours is not None and listed in (None, ours):
            return cls.from_merges(ours, _by_id(special_tokens), pattern)
        try:
            encoder = _rustbpe.Encoder.from_tokens(list(tokens), listed, pattern, whole)
        except ValueError as error:
            raise DamagedArtifact(f"These tokens are no vocabulary: {error}.") from error
        return cls(encoder, special_tokens, pattern, listed, whole)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Reads `vocabulary.json`; raises `DamagedArtifact` if it is none."""
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            merges = stored["merges"] and [(int(left), int(right)) for left, right in stored["merges"]]
            match stored["format"]:
                case 1:
                    return cls.from_merges(merges, stored["specials"], stored["pattern"])
                case 2:
                    tokens = [None if token is None else base64.b64decode(token) for token in stored["tokens"]]
                    return cls.from_tokens(tokens, stored["specials"], stored["pattern"], merges, stored["whole"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedArtifact(f"`{path}` is not a vocabulary of ours.") from error
        raise DamagedArtifact(f"`{path}` is a vocabulary of another format than 1 and 2.")

    def save(self, path: Path | str) -> None:
        """Writes `vocabulary.json`: format 1 if the ids are in our order, else format 2, which lists them all."""
        Path(path).write_text(canonical_json(self._stored()) + "\n", encoding="utf-8")

    def _stored(self) -> dict[str, Any]:
        if self.in_order:
            merges = [list(pair) for pair in self.merges]
            return {"format": 1, "pattern": self.pattern, "specials": _by_id(self.special_tokens), "merges": merges}
        return {
            "format": 2,
            "pattern": self.pattern,
            "specials": self.special_tokens,
            "tokens": [None if token is None else base64.b64encode(token).decode() for token in self._tokens],
            "merges": None if self.by_ranks else [list(pair) for pair in self.merges],
            "whole": self.whole,
        }

    # --- what it is ---------------------------------------------------------------------------------------------------

    @cached_property
    def merges(self) -> list[tuple[int, int]]:
        """Pairs of ids in order of priority; of a vocabulary made of ranks, those that tiktoken's rule amounts to."""
        return derived_merges(self._tokens) if self._given_merges is None else list(self._given_merges)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what `save` writes, but for its last newline."""
        return hashlib.sha256(canonical_json(self._stored()).encode()).hexdigest()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest type of an id: uint16 up to 65,536 ids, else uint32."""
        return np.dtype(np.uint32 if self.vocab_size > WIDE_FROM else np.uint16)

    @property
    def bos(self) -> int:
        return self.special("<|bos|>")

    def special(self, name: str) -> int:
        """Id of a special token: `<|user_start|>`. Raises `KeyError` if there is none of that name."""
        return self.special_tokens[name]

    def token_bytes(self) -> list[bytes | None]:
        """(vocab_size,): bytes of every id, None for special tokens and for ids without a token."""
        return [*self._tokens, *[None] * (self.vocab_size - len(self._tokens))]

    def token_byte_lengths(self) -> np.ndarray:
        """(vocab_size,) int32: bytes that each id stands for, 0 for special tokens."""
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
        """Bytes of an id, or of a special token's name. Raises `KeyError` if there is no token."""
        return self._bytes[number]

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {token: number for number, token in enumerate(self._tokens) if token is not None}

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        named = {number: name.encode() for number, name in self._special_names.items()}
        return {number: token for token, number in self._ids.items()} | named

    # --- using it -----------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of a text; what looks like a special token is text. (tiktoken calls this `encode_ordinary`.)"""
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

        `before` and `after` are ids put around every text; `threads` 0 takes all cores. Of Arrow, no Python object is
        made per text. `out` is an array of `dtype` to be written to, used again from call to call: the ids are then its
        beginning. Raises `ValueError` if it is too small.
        """
        wide = self.dtype == np.uint32
        if is_arrow(texts):
            return self.encoder.encode_buffers(arrow_chunks(texts), threads, wide, before, after, out)
        return self.encoder.encode_batch(as_strings(texts), threads, wide, before, after, out)

    def encode_parquet(
        self,
        path: Path | str,
        column: str = "text",
        threads: int = 0,
        before: int | None = None,
        after: int | None = None,
    ) -> Iterator[_rustbpe.Batch]:
        """Ids of a Parquet file's texts, in order, while it is read: some 4 MB of text at a time.

        A batch has the `ids` (N,) and `offsets` (texts + 1,) that `encode_batch` gives, and can say more of its texts;
        a null is an empty one. The threads that encode read as well, so that reading takes none of its own; in memory
        are a few batches for each of them, whatever the size of a row group. Raises `BadSource` when the file is
        damaged, or has no such column.
        """
        wide = self.dtype == np.uint32
        try:
            yield from self.encoder.encode_parquet(str(path), column, threads, wide, before, after)
        except ValueError as error:
            raise BadSource(f"`{path}` cannot be encoded: {str(error).rstrip('.')}.") from error

    def decode_bytes(self, ids: Ids) -> bytes:
        """Bytes of ids; special tokens give their names. Raises `KeyError` on an unknown id."""
        try:
            return self.encoder.decode(_as_crate_takes(ids))
        except (KeyError, OverflowError):  # special tokens are among them, or unknown ids
            pass
        try:
            return b"".join([self._bytes[int(number)] for number in ids])
        except KeyError as error:
            raise KeyError(f"there is no token {error}") from None

    def decode(self, ids: Ids) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_batch(self, batch: Iterable[Ids]) -> list[str]:
        """Texts of many rows of ids."""
        return [self.decode(ids) for ids in batch]

    def decode_stream(self) -> DecodeStream:
        """For ids that come one by one."""
        return DecodeStream(self)


class DecodeStream:
    """Text of ids that come one by one: a character is given when its last byte is there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def step(self, *ids: int) -> str:
        """The characters that these ids make whole."""
        return self._decoder.decode(self._tokenizer.decode_bytes(ids))

    def end(self) -> str:
        """U+FFFD if a character was left in its middle."""
        return self._decoder.decode(b"", final=True)


def _by_id(special_tokens: Mapping[str, int]) -> list[str]:
    return sorted(special_tokens, key=lambda name: special_tokens[name])


def _merges_in_order(tokens: Sequence[bytes | None], special_tokens: Mapping[str, int]) -> list[tuple[int, int]] | None:
    """The merges of a vocabulary whose ids are bytes, merges in order and special tokens; None of any other."""
    if list(tokens[:BYTES]) != [bytes([byte]) for byte in range(BYTES)] or None in tokens:
        return None
    if sorted(special_tokens.values()) != list(range(len(tokens), len(tokens) + len(special_tokens))):
        return None
    merges = derived_merges(tokens)
    known = len(merges) == len(tokens) - BYTES and all(max(pair) < BYTES + i for i, pair in enumerate(merges))
    return merges if known else None


def _as_crate_takes(ids: Ids) -> list[int] | np.ndarray:
    if not isinstance(ids, np.ndarray):
        return ids if isinstance(ids, list) else list(ids)
    return np.ascontiguousarray(ids if ids.dtype in (np.uint16, np.uint32, np.int64) else ids.astype(np.int64))
