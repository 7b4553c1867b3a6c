"""Ids straight from Parquet files, as pyarrow writes them in all its ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.errors import BadSource
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.world.documents import documents

TEXTS = [*documents(5, 0, 700), "", "zwei 🙂", "a" * 3_000_000, "x", *documents(5, 1, 700)]
OURS = Tokenizer.train_from_iterator(TEXTS[:100], 1000)
IDS, OFFSETS = OURS.encode_batch(TEXTS, before=OURS.bos, after=3)


def ids_of(path: Path, threads: int = 2, column: str = "text") -> tuple[np.ndarray, np.ndarray]:
    """Ids, and how many of them each document has."""
    batches = list(OURS.encode_parquet(path, column, threads, before=OURS.bos, after=3))
    return np.concatenate([batch.ids for batch in batches]), np.concatenate(
        [np.diff(batch.offsets) for batch in batches]
    )


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize(
    "how",
    [
        {"compression": "none", "row_group_size": 7},
        {"compression": "snappy", "row_group_size": 100},
        {"compression": "gzip", "row_group_size": 1000},
        {"compression": "lz4", "use_dictionary": False, "data_page_size": 1000, "write_batch_size": 3},
        {"compression": "zstd", "use_dictionary": False, "data_page_version": "2.0"},
        {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"}, "row_group_size": 300},
    ],
    ids=lambda how: ",".join(str(value) for value in how.values()),
)
def test_however_it_is_written(tmp_path: Path, how: dict, threads: int) -> None:
    pq.write_table(pa.table({"other": range(len(TEXTS)), "text": TEXTS}), tmp_path / "a.parquet", **how)
    ids, lengths = ids_of(tmp_path / "a.parquet", threads)
    assert ids.dtype == np.uint16
    assert np.array_equal(ids, IDS) and np.array_equal(lengths, np.diff(OFFSETS))


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.none() | st.text(max_size=30), max_size=300),
    row_group=st.integers(1, 50),
    kind=st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]),
)
def test_nulls_are_empty_texts(tmp_path_factory, texts: list, row_group: int, kind: pa.DataType) -> None:
    path = tmp_path_factory.mktemp("nulls") / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(texts, pa.string()).cast(kind)}), path, row_group_size=row_group)
    batches = list(OURS.encode_parquet(path, threads=3))
    plain = [text or "" for text in texts]
    assert [
        OURS.decode(batch.ids[b:e]) for batch in batches for b, e in zip(batch.offsets, batch.offsets[1:], strict=False)
    ] == plain
    assert [int(h) for batch in batches for h in batch.hashes()] == [
        xxhash.xxh3_64_intdigest(text.encode()) for text in plain
    ]
    assert [int(n) for batch in batches for n in batch.byte_lengths()] == [len(text.encode()) for text in plain]
    assert [batch.beginning(i, 4) for batch in batches for i in range(len(batch))] == [t.encode()[:4] for t in plain]


def test_what_is_not_utf8_becomes_replacement_characters(tmp_path: Path) -> None:
    column = pa.array([b"a\xffb", b"\xe2\x82"], pa.binary())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    batch = next(iter(OURS.encode_parquet(tmp_path / "a.parquet")))
    assert OURS.decode(batch.ids) == "a�b�"


def test_who_wants_no_more_gets_no_more(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS * 20}), tmp_path / "a.parquet", row_group_size=50)
    for taken in range(4):
        batches = OURS.encode_parquet(tmp_path / "a.parquet", threads=2)
        for _ in range(taken):
            next(batches)
        batches.close()


@pytest.mark.parametrize("column", ["number", "rows", "texts"])
def test_another_column_is_refused(tmp_path: Path, column: str) -> None:
    table = pa.table({"number": [1], "rows": [["a"]], "text": ["a"]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BadSource, match=rf"a\.parquet` cannot be encoded: .*`{column}`"):
        ids_of(tmp_path / "a.parquet", column=column)


def test_no_file_and_no_parquet_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("a text")
    for name in ("a.parquet", "b.parquet"):
        with pytest.raises(BadSource, match=rf"{name}` cannot be encoded: "):
            ids_of(tmp_path / name)


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_is_an_error_or_another_text_but_never_a_crash(tmp_path: Path, seed: int) -> None:
    path, dice = tmp_path / "a.parquet", np.random.default_rng(seed)
    table = pa.table({"text": TEXTS[:400]})
    pq.write_table(table, path, row_group_size=100, compression=["none", "zstd", "snappy"][seed % 3])
    content = bytearray(path.read_bytes())
    if seed % 5 == 0:
        content = content[: int(dice.integers(len(content)))]
    for place in dice.integers(0, len(content), 1 + seed % 4):
        content[place] ^= 1 << int(dice.integers(8))
    path.write_bytes(content)
    try:
        ids_of(path)
    except BadSource as error:
        assert str(error).count("\n") == 0
