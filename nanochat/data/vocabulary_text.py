"""The text that a vocabulary is trained and measured on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nanochat.sources.documents import open_parquet, total_bytes
from nanochat.tokenizer.bpe import Tokenizer

SAMPLE_CHARACTERS = 2_000_000
"""Characters of text on which bytes per token are measured."""


def first_texts(files: Sequence[Path], document_characters: int, max_characters: int) -> Iterator[pa.StringArray]:
    """Yields documents in order, each truncated to `document_characters`, up to `max_characters` in total."""
    left = max_characters
    for file in files:
        with open_parquet(file) as parquet:
            for batch in parquet.iter_batches(1024, columns=["text"]):
                texts = pc.call_function(
                    "utf8_slice_codeunits", [batch.column(0)], pc.SliceOptions(0, document_characters)
                )
                characters = np.cumsum(pc.call_function("utf8_length", [texts]).to_numpy())
                enough = int(np.searchsorted(characters, left)) + 1  # includes the document that reaches the limit
                yield texts[:enough]
                if enough <= len(texts):
                    return
                left -= int(characters[-1])


def bytes_per_token(tokenizer: Tokenizer, files: Sequence[Path], document_characters: int, threads: int) -> float:
    """UTF-8 bytes per token, on the first two million characters."""
    text_bytes = tokens = 0
    for texts in first_texts(files, document_characters, SAMPLE_CHARACTERS):
        text_bytes += total_bytes(texts)
        tokens += len(tokenizer.encode_batch(texts, threads=threads)[0])
    return text_bytes / max(tokens, 1)
