"""Token shards: what is written is what is read."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat._rustbpe import PATTERN
from nanochat.data.token_shards import TokenFile, write_tokens
from nanochat.errors import BadSource
from nanochat.tokenizer.bpe import Tokenizer

BOS = 256


def byte_tokenizer(vocab_size: int = BOS + 1) -> Tokenizer:
    """A token a byte; the highest id is a special token that nothing uses."""
    specials = {"<|bos|>": BOS} | ({"<|last|>": vocab_size - 1} if vocab_size > BOS + 1 else {})
    return Tokenizer.from_tokens([bytes([byte]) for byte in range(BOS)], specials, PATTERN)


def raw(path: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path, row_group_size=1024)
    return path


def read_back(path: Path) -> list[str]:
    found = []
    for ids, offsets in TokenFile(path).row_groups():
        for begin, end in pairwise(offsets):
            assert ids[begin] == BOS
            found.append(ids[begin + 1 : end].astype(np.uint8).tobytes().decode())
    return found


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text(max_size=50), min_size=1, max_size=100),
    group_tokens=st.integers(1, 500),
    vocab_size=st.sampled_from([257, 65_536, 65_537]),
)
def test_documents_come_back(tmp_path_factory, texts, group_tokens, vocab_size) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    source, tokenizer = raw(folder / "raw.parquet", texts), byte_tokenizer(vocab_size)
    encoded = write_tokens(source, folder / "train.parquet", tokenizer, group_tokens, 1)
    assert read_back(folder / "train.parquet") == texts
    file = TokenFile(folder / "train.parquet")
    assert file.dtype == np.dtype("<u2" if vocab_size <= 65_536 else "<u4")
    assert (file.documents, file.vocabulary) == (len(texts), tokenizer.digest) == (encoded.documents, tokenizer.digest)
    assert file.tokens == encoded.tokens == sum(len(text.encode()) + 1 for text in texts)
    assert encoded.text_bytes == file.tokens - file.documents
    groups = [len(ids) for ids, _ in file.row_groups()]
    assert sum(groups) == file.tokens
    assert all(tokens >= group_tokens for tokens in groups[:-1])


def test_row_groups_are_cut_between_documents(tmp_path: Path) -> None:
    source = raw(tmp_path / "raw.parquet", ["abcd"] * 3000)  # 5 tokens each
    write_tokens(source, tmp_path / "train.parquet", byte_tokenizer(), 1024, 1)
    groups = [len(ids) for ids, _ in TokenFile(tmp_path / "train.parquet").row_groups()]
    assert groups == [1025] * 14 + [650]


def test_the_bytes_are_the_tokens(tmp_path: Path) -> None:
    """A Parquet reader and the footer are enough to read a shard."""
    write_tokens(raw(tmp_path / "raw.parquet", ["ab"]), tmp_path / "train.parquet", byte_tokenizer(), 1024, 1)
    assert pq.read_table(tmp_path / "train.parquet")["tokens"].to_pylist() == [b"\x00\x01a\x00b\x00"]
    assert pq.read_metadata(tmp_path / "train.parquet").metadata[b"dtype"] == b"uint16"


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=r"raw\.parquet` is not a file of tokens"):
        TokenFile(raw(tmp_path / "raw.parquet", ["a"]))


def test_a_document_of_50_megabytes_among_small_ones(tmp_path: Path) -> None:
    small = [f"a small document, number {number}" for number in range(100)]
    tokenizer = Tokenizer.train_from_iterator(iter([pa.array(small)]), 300, threads=1)
    source = raw(tmp_path / "raw.parquet", [*small, "number " * (50_000_000 // 7), *small])
    encoded = write_tokens(source, tmp_path / "train.parquet", tokenizer, 1 << 20, 2)
    groups = [(len(ids), len(offsets) - 1) for ids, offsets in TokenFile(tmp_path / "train.parquet").row_groups()]
    assert sum(documents for _, documents in groups) == encoded.documents == 201
    assert sum(tokens for tokens, _ in groups) == encoded.tokens > 7_000_000
