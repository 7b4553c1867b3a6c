"""Ids straight from Parquet files, as pyarrow writes them in all its ways."""

from __future__ import annotations

import base64
import itertools
import os
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
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
        assert list(batches) == []


KINDS = {
    "string": pa.string(), "large": pa.large_string(), "view": pa.string_view(), "bytes": pa.binary(),
    "large bytes": pa.large_binary(), "dictionary": pa.dictionary(pa.int32(), pa.string()), "json": pa.json_(),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
def test_every_codec_and_kind_of_text_is_read(tmp_path: Path, codec: str, kind: str) -> None:
    column = pa.array([text.encode() for text in TEXTS[:300]], pa.binary()).cast(pa.string())
    if kind != "json":
        column = column.cast(KINDS[kind]) if "dictionary" not in kind else column.dictionary_encode()
    else:
        column = pa.ExtensionArray.from_storage(pa.json_(), column)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", compression=codec, row_group_size=90)
    ids, _ = ids_of(tmp_path / "a.parquet")
    assert np.array_equal(ids, IDS[: OFFSETS[300]])


@pytest.mark.parametrize("column", [pa.array([Decimal("1.5")]), pa.array([["a"]]), pa.array([{"x": "a"}]),
    pa.array([b"ab"], pa.binary(2)), pa.array([1.5]), pa.array([None]), pa.array([1]).dictionary_encode(),
    pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string()))], ids=lambda column: str(column.type))  # fmt: skip
def test_a_column_of_something_else_is_refused(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", store_decimal_as_integer=False)
    with pytest.raises(BadSource, match="the column `text` is not of texts"):
        ids_of(tmp_path / "a.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    texts = pa.array(["a"])
    for columns in ([texts, texts], [texts, pa.array([1])], [pa.array([1]), texts]):
        pq.write_table(pa.table(columns, names=["text", "text"]), tmp_path / "a.parquet")
        with pytest.raises(BadSource, match=r"a\.parquet` cannot be encoded: there are 2 columns `text`"):
            ids_of(tmp_path / "a.parquet")
    pq.write_table(pa.table([texts, pa.array([{"x": "b"}])], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(BadSource, match="`text`"):
        ids_of(tmp_path / "a.parquet")
    with pytest.raises(BadSource, match="2 of these columns are named `text`"):
        OURS.encode_batch(pa.table([texts, texts], names=["text", "text"]))


def test_a_dot_in_a_name_is_no_field_of_a_struct(tmp_path: Path) -> None:
    table = pa.table({"a": [{"b": "struct"}, None, {"b": None}], "a.b": ["flat", "x", "y"]})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.select(["a"]), tmp_path / "struct.parquet")

    def texts(path: str, column) -> list[str]:
        (batch,) = OURS.encode_parquet(tmp_path / path, column)
        return [OURS.decode(batch.ids[b:e]) for b, e in itertools.pairwise(batch.offsets)]

    assert texts("a.parquet", "a.b") == ["flat", "x", "y"]
    assert texts("a.parquet", ("a", "b")) == texts("struct.parquet", ["a", "b"]) == ["struct", "", ""]
    for column in ("a.b", "a", ("a", "c"), ("a.b", "a"), (), ""):
        with pytest.raises(BadSource, match="column"):
            texts("struct.parquet", column)


@pytest.mark.parametrize("groups", [[0], [0, 0], [2, 0, 1], [0, 3], [3, 0]])
def test_parts_without_rows_count_nothing(tmp_path: Path, groups: list[int]) -> None:
    schema = pa.schema({"text": pa.string()})
    with pq.ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for number, rows in enumerate(groups):
            writer.write_table(pa.table({"text": [f"text {number}"] * rows}, schema=schema))
    batches = list(OURS.encode_parquet(tmp_path / "a.parquet", threads=2))
    assert sum(len(batch) for batch in batches) == sum(groups)
    assert OURS.encoder.encode_parquet(bytes(tmp_path / "a.parquet"), ["text"], 1, False).rows == sum(groups)


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    class Plain(pe.KmsClient):
        def __init__(self, _config: object) -> None:
            super().__init__()

        def wrap_key(self, key: bytes, _master: str) -> bytes:
            return base64.b64encode(key)

        def unwrap_key(self, wrapped: bytes, _master: str) -> bytes:
            return base64.b64decode(wrapped)

    factory = pe.CryptoFactory(Plain)
    for plaintext_footer in (True, False):
        config = pe.EncryptionConfiguration(
            "footer", column_keys={"column": ["text"]}, plaintext_footer=plaintext_footer
        )
        properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
        table = pa.table({"text": ["a secret"] * 100})
        with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)
        with pytest.raises(BadSource, match=r"a\.parquet` cannot be encoded: .*encrypt"):
            ids_of(tmp_path / "a.parquet")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    pq.write_table(pa.table({"text": TEXTS[:50]}), tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for kept in (1, 8, len(content) // 2, len(content) - 1):
        (tmp_path / f"cut {kept}").write_bytes(content[:kept])
    (tmp_path / "page").write_text("<html>" * 100)
    for path in tmp_path.iterdir():
        if path.name != "whole":
            with pytest.raises(BadSource, match=f"{path.name}` cannot be encoded: "):
                ids_of(path)
    for path in (tmp_path, tmp_path / "no\0name", Path("/dev/null"), tmp_path / "\ud800"):
        with pytest.raises(BadSource, match="cannot be encoded: "):
            ids_of(path)


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
    path, generator = tmp_path / "a.parquet", np.random.default_rng(seed)
    table = pa.table({"text": TEXTS[:400]})
    pq.write_table(table, path, row_group_size=100, compression=["none", "zstd", "snappy"][seed % 3])
    content = bytearray(path.read_bytes())
    if seed % 5 == 0:
        content = content[: int(generator.integers(len(content)))]
    for place in generator.integers(0, len(content), 1 + seed % 4):
        content[place] ^= 1 << int(generator.integers(8))
    path.write_bytes(content)
    try:
        ids_of(path)
    except BadSource as error:
        assert str(error).count("\n") == 0
