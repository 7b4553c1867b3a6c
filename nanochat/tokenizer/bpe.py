"""The tokenizer: byte-pair encoding with nanochat's split pattern, by our own crate.

Ids: 0..255 are bytes, then the merges in the order in which they were learnt, then nine special tokens at the top.
Text never becomes a special token: those are put in by id, on purpose.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nanochat import _rustbpe
from nanochat.config import canonical_json
from nanochat.errors import BadConfig, DamagedArtifact

SPECIALS = (
    "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",
    "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",
)  # fmt: skip
BYTES = 256
WIDE_FROM = 1 << 16
"""Vocabularies larger than this need 32 bits an id."""

if _rustbpe.DEBUG_BUILD:
    warnings.warn("nanochat's tokenizer is a debug build: it is many times slower", stacklevel=1)

Texts = Sequence[str] | pa.StringArray | pa.LargeStringArray


class Tokenizer:
    """A vocabulary, and how to use it. Threads may share one."""

    def __init__(self, merges: Sequence[tuple[int, int]]) -> None:
        try:
            self._encoder = _rustbpe.Encoder(merges)
        except ValueError as error:
            raise DamagedArtifact(f"These merges are no vocabulary: {error}.") from error
        self.merges = [(left, right) for left, right in merges]
        self._first_special = BYTES + len(self.merges)

    # --- making -------------------------------------------------------------------------------------------------------

    @classmethod
    def train(
        cls,
        batches: Iterable[Texts],
        vocab_size: int,
        threads: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tokenizer:
        """Learns `vocab_size` ids in all from batches of texts; `progress(merges learnt, merges wanted)`.

        Deterministic for any number of threads. Raises `BadConfig` when the vocabulary has no room for bytes and
        special tokens, or the text does not hold so many merges.
        """
        wanted = vocab_size - BYTES - len(SPECIALS)
        if wanted < 1:
            raise BadConfig(
                f"`tokenizer.vocab_size` = {vocab_size} has no room for bytes, special tokens and a merge.",
                hint=f"Take at least {BYTES + len(SPECIALS) + 1}.",
            )
        trainer = _rustbpe.Trainer(threads)
        for batch in batches:
            if isinstance(batch, pa.Array):
                trainer.add_buffer(*_buffers(batch))
            else:
                trainer.add(list(batch))
        told = (lambda done: progress(done, wanted)) if progress else None
        merges = trainer.merges(wanted, told)
        if len(merges) < wanted:
            largest = BYTES + len(SPECIALS) + len(merges)
            raise BadConfig(
                f"`tokenizer.vocab_size` = {vocab_size:,}: this text holds only {len(merges):,} merges.",
                hint=f"Take at most {largest:,}, or more text.",
            )
        return cls(merges)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Reads `vocabulary.json`; raises `DamagedArtifact` if it is none, or of another pattern."""
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            if stored["format"] != 1 or stored["pattern"] != _rustbpe.PATTERN or tuple(stored["specials"]) != SPECIALS:
                raise DamagedArtifact(f"{path} is a vocabulary of another format, pattern or set of special tokens.")
            return cls([(int(left), int(right)) for left, right in stored["merges"]])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedArtifact(f"{path} is not a vocabulary of ours.") from error

    def save(self, path: Path | str) -> None:
        """Writes `vocabulary.json`."""
        Path(path).write_text(canonical_json(self._stored()) + "\n", encoding="utf-8")

    def _stored(self) -> dict[str, Any]:
        return {
            "format": 1,
            "pattern": _rustbpe.PATTERN,
            "specials": list(SPECIALS),
            "merges": [list(pair) for pair in self.merges],
        }

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        return self._first_special + len(SPECIALS)

    @property
    def digest(self) -> str:
        """SHA-256 of what `save` writes, but for its last newline."""
        return hashlib.sha256(canonical_json(self._stored()).encode()).hexdigest()

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest type of an id: uint16 up to 65,536 ids, else uint32."""
        return np.dtype(np.uint32 if self.vocab_size > WIDE_FROM else np.uint16)

    @property
    def bos(self) -> int:
        return self._first_special

    def special(self, name: str) -> int:
        """Id of a special token: `<|user_start|>`."""
        return self._first_special + SPECIALS.index(name)

    def token_bytes(self) -> list[bytes]:
        """Bytes of every id but the special ones."""
        return self._encoder.token_bytes()

    def token_byte_lengths(self) -> np.ndarray:
        """(vocab_size,) int32: bytes that each id stands for, 0 for special tokens."""
        lengths = [len(token) for token in self.token_bytes()]
        return np.array(lengths + [0] * len(SPECIALS), np.int32)

    # --- using it -----------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of a text; what looks like a special token is text."""
        return self._encoder.encode(text)

    def encode_batch(
        self, texts: Texts, threads: int = 0, before: int | None = None, after: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts in one array (N,) uint16 or uint32, and offsets (texts + 1,) int64 into it.

        `before` and `after` are ids put around every text; `threads` 0 takes all cores. Of an Arrow array, no Python
        object is made per text.
        """
        wide = self.dtype == np.uint32
        if isinstance(texts, pa.Array):
            return self._encoder.encode_buffer(*_buffers(texts), threads, wide, before, after)
        return self._encoder.encode_batch(list(texts), threads, wide, before, after)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Bytes of ids; special tokens give their names. Raises `KeyError` on an unknown id."""
        parts: list[bytes] = []
        run: list[int] = []
        for token in ids:
            if token < self._first_special:
                run.append(int(token))
                continue
            if token >= self.vocab_size:
                raise KeyError(f"there is no token {token}")
            parts += [self._encoder.decode(run), SPECIALS[token - self._first_special].encode()]
            run = []
        return b"".join([*parts, self._encoder.decode(run)])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


def _buffers(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes (uint8) and offsets (int64) of an Arrow string array; nulls are empty texts."""
    if texts.null_count:
        texts = texts.fill_null("")
    if not pa.types.is_large_string(texts.type):
        texts = texts.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1] if offsets else np.zeros(1)
    values = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return values, np.ascontiguousarray(bounds, np.int64)
