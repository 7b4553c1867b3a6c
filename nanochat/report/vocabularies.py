"""Bytes per token of a vocabulary, and of GPT-2's and GPT-4's, on several kinds of text.

Those of others come from tiktoken, if it is installed and has kept their files: nothing is fetched.
"""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from nanochat import settings
from nanochat.report.sample_texts import SAMPLE_TEXTS
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import measure_file
from nanochat.tokenizer.bpe import Tokenizer

OURS, HELD_OUT = "this vocabulary", "held-out text of this run"
DOCUMENTS, CHARACTERS = 1000, 200_000
"""Of the held-out text."""
SOURCE = "https://openaipublic.blob.core.windows.net/"
GPT2 = f"{SOURCE}gpt-2/encodings/main/"
OTHERS = {
    "GPT-2": ("gpt2", {
        f"{GPT2}vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        f"{GPT2}encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    }),
    "cl100k (GPT-4)": ("cl100k_base", {
        f"{SOURCE}encodings/cl100k_base.tiktoken": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    }),
}  # fmt: skip
"""Name → tiktoken's name, and the addresses under which tiktoken keeps its files, with their SHA-256."""

Count = Callable[[str], int]
"""Tokens of a text."""


@dataclass(frozen=True)
class Compression:
    """Bytes per token."""

    ratios: dict[str, dict[str, float]]
    """Kind of text → name of the vocabulary → bytes per token."""
    sizes: dict[str, int]
    """Name of the vocabulary → its number of tokens."""
    absent: list[str]
    """Vocabularies of others that this machine does not have."""


def compression(vocabulary: Artifact, raw: Sequence[Artifact]) -> Compression:
    """Bytes per token on held-out text of the run, and on the sample texts."""
    ours = Tokenizer.load(vocabulary.path / "vocabulary.json")
    counts: dict[str, Count] = {OURS: lambda text: len(ours.encode(text))}
    sizes, absent = {OURS: ours.vocab_size}, []
    for name in OTHERS:
        if (other := stored_encoding(name)) is None:
            absent.append(name)
        else:
            counts[name], sizes[name] = _counting(other), other.n_vocab
    texts = {**_held_out(raw), **SAMPLE_TEXTS}
    ratios = {
        kind: {name: len(text.encode()) / max(count(text), 1) for name, count in counts.items()}
        for kind, text in texts.items()
    }
    return Compression(ratios, sizes, absent)


def stored_encoding(name: str) -> Any:
    """An encoding of tiktoken whose files it has kept; None without them, or without tiktoken."""
    encoding, files = OTHERS[name]
    if not all(_is_kept(address, sha256) for address, sha256 in files.items()):
        return None
    try:
        return importlib.import_module("tiktoken").get_encoding(encoding)
    except ImportError:
        return None


def _is_kept(address: str, sha256: str) -> bool:
    """Whether tiktoken will find its file undamaged: it would fetch another one."""
    path = settings.tiktoken_folder() / hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
    try:
        return measure_file(path)[1] == sha256
    except OSError:
        return False


def _counting(encoding: Any) -> Count:
    return lambda text: len(encoding.encode_ordinary(text))


def _held_out(raw: Sequence[Artifact]) -> dict[str, str]:
    """Some of the held-out text: that of the first shard that has any."""
    for shard in raw:
        if shard.metrics.get("validation_documents"):
            data = shard.store.payloads.read_file(shard.manifest, "validation.parquet")  # without the training text
            batch = next(pq.ParquetFile(io.BytesIO(data)).iter_batches(DOCUMENTS, columns=["text"]))
            return {HELD_OUT: "\n".join(batch.column(0).to_pylist())[:CHARACTERS]}
    return {}
