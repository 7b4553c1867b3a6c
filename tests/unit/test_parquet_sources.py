"""Parquet as other people write it: columns, types, parts, and files that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.config.data import DataConfig
from nanochat.errors import BadSource
from nanochat.sources.documents import batch_documents, open_parquet, read_documents
from nanochat.sources.download import write_shard
from nanochat.sources.shard_list import list_shards

TEXTS = [f"text {number}" for number in range(100)]


def read(path: Path, column: str = "text") -> list[str | None]:
    return [text for batch in read_documents(path, column) for text in batch.to_pylist()]


def file(folder: Path, columns: dict[str, Any] | pa.Table, **options: Any) -> Path:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, folder / "a.parquet", **options)
    return folder / "a.parquet"


def test_two_columns_of_the_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(TEXTS), pa.array(TEXTS)], names=["text", "text"])
    with pytest.raises(BadSource, match=r"a\.parquet` has 2 columns `text`"):
        read(file(tmp_path, table))


def test_a_column_is_known_by_its_whole_name(tmp_path: Path) -> None:
    """Not by the joined names of a nested one, which read the same."""
    nested = pa.array([{"b": "wrong", "text": "wrong"}] * 100)
    path = file(tmp_path, {"a": nested, "a.b": TEXTS, "text.more": ["wrong"] * 100, "text": TEXTS})
    assert read(path, "a.b") == TEXTS
    assert read(path) == TEXTS
    for column in ("a.text", "b"):
        with pytest.raises(BadSource, match=rf"has no column `{column}`"):
            read(path, column)
    with pytest.raises(BadSource, match="has the type struct"):
        read(path, "a")


def test_the_size_of_batches_is_that_of_the_column_itself(tmp_path: Path) -> None:
    long = ["x" * 1_000_000] * 100
    nested = pa.array([{"text": "short", "deep": [{"text": "short"}]}] * 100)
    with open_parquet(file(tmp_path, {"meta": nested, "text": long}, use_dictionary=False)) as parquet:
        assert batch_documents(parquet, "text") < 100


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)  # fmt: skip
def test_all_kinds_of_strings_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array([*TEXTS, None, ""], pa.string())
    column = column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column.cast(kind)
    assert read(file(tmp_path, {"text": column})) == [*TEXTS, None, ""]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([text.encode() for text in TEXTS]), pa.array([[text] for text in TEXTS]), pa.array(range(100)),
        pa.array([text.encode() for text in TEXTS], pa.binary_view()),
    ],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_a_column_that_holds_no_strings_is_refused(tmp_path: Path, column: pa.Array) -> None:
    with pytest.raises(BadSource, match=r"column `text` of .* has the type .*, not text") as caught:
        read(file(tmp_path, {"text": column}))
    assert caught.value.hint


def test_a_column_of_nothing_has_no_text(tmp_path: Path) -> None:
    path = file(tmp_path, {"text": pa.nulls(20)})
    assert read(path) == [None] * 20


def test_a_part_without_rows_is_counted_as_none(tmp_path: Path) -> None:
    """Also one that such a part has a column without a type in, or row groups without rows."""
    parts = {
        "part-0": pa.table({"text": TEXTS}),
        "part-1": pa.table({"text": pa.array([], pa.string())}),
        "part-2": pa.table({"text": pa.nulls(0), "more": pa.nulls(0)}),
        "part-3": pa.table({"more": range(100), "text": pa.array(TEXTS).dictionary_encode()}),
    }
    for name, table in parts.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pq.ParquetWriter(tmp_path / "part-4.parquet", parts["part-0"].schema) as writer:
        for table in (parts["part-1"], parts["part-0"], parts["part-1"]):
            writer.write_table(table)
    counts = []
    for shard in list_shards(DataConfig(source=str(tmp_path))):
        out = tmp_path / "out" / shard.name
        out.mkdir(parents=True)
        metrics = write_shard(shard, out)
        counts.append(metrics["train_documents"] + metrics["validation_documents"])
        assert metrics["skipped_documents"] == 0
    assert counts == [100, 0, 0, 100, 100]


def test_a_part_without_the_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "b.parquet")
    first, second = list_shards(DataConfig(source=str(tmp_path)))
    (tmp_path / "out").mkdir()
    write_shard(first, tmp_path / "out")
    with pytest.raises(BadSource, match=r"b\.parquet` has no column `text`; it has `body`"):
        write_shard(second, tmp_path / "out")


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
def test_all_codecs_are_read(tmp_path: Path, codec: str) -> None:
    assert read(file(tmp_path, {"text": TEXTS}, compression=codec)) == TEXTS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PARE" + b"x" * 100 + b"PARE", "is an encrypted Parquet file, not a Parquet file"),
        (b'{"text": "a"}\n', "is JSON, not a Parquet file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not a Parquet file"),
        (b"<!doctype html><title>403</title>", "is an HTML or XML page, not a Parquet file"),
        (b"\x1f\x8b\x08\x00" + b"x" * 100, "is gzip, not a Parquet file"),
        (b"hello, world", "is a file of another format, not a Parquet file"),
        (b"PAR1" + b"x" * 100, "is damaged or truncated"),
        (bytes(100), "is nothing but zero bytes, not a Parquet file"),
    ],
)
def test_what_is_no_parquet_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(BadSource) as caught:
        read(tmp_path / "a.parquet")
    assert f"a.parquet` {message}" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("keep", [-4, -9, 0.5, 100])
def test_a_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    data = file(tmp_path, {"text": TEXTS}).read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: int(keep if abs(keep) >= 1 else keep * len(data))])
    with pytest.raises(BadSource, match=r"a\.parquet` is damaged or truncated"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.json"])
def test_parquet_under_another_name_is_named(tmp_path: Path, name: str) -> None:
    file(tmp_path, {"text": TEXTS}).rename(tmp_path / name)
    with pytest.raises(BadSource, match=f"{name}` is a Parquet file, not text"):
        read(tmp_path / name)


def test_an_encrypted_file_is_named(tmp_path: Path) -> None:
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):
        def wrap_key(self, key_bytes, master_key_identifier):
            return "".join(f"{byte:02x}" for byte in key_bytes)

        def unwrap_key(self, wrapped_key, master_key_identifier):
            return bytes.fromhex(wrapped_key)

    factory = encryption.CryptoFactory(lambda _: Keys())
    for plaintext_footer in (True, False):
        how = encryption.EncryptionConfiguration(
            footer_key="footer", column_keys={"text": ["text"]}, plaintext_footer=plaintext_footer
        )
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), how)
        with pytest.raises(BadSource) as caught:
            read(file(tmp_path, {"text": TEXTS}, encryption_properties=properties))
        assert "a.parquet`" in caught.value.message and "ncrypt" in caught.value.message
