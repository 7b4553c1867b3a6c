from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import rows as rows_module
from nanochat.data.rows import MaskedRowFiles, RowFiles, RowWriter, open_masked_rows, open_rows
from nanochat.errors import BadConfig, BadSource


def numbered(count: int, row_tokens: int, dtype: str = "uint16", first: int = 0) -> np.ndarray:
    return (np.arange(count * row_tokens).reshape(count, row_tokens) + first).astype(dtype)


def write(path: Path, rows: np.ndarray, masks: np.ndarray | None = None) -> Path:
    with RowWriter(path, rows.shape[1], rows.dtype, masked=masks is not None) as writer:
        writer.write(rows, masks)
    return path


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=4),
    row_tokens=st.integers(2, 40),
    dtype=st.sampled_from(["uint16", "uint32"]),
    piece=st.integers(1, 20),
    group_bytes=st.integers(1, 2000),
)
def test_rows_come_back_as_they_were_written(tmp_path_factory, counts, row_tokens, dtype, piece, group_bytes) -> None:
    folder = tmp_path_factory.mktemp("rows")
    every = numbered(sum(counts), row_tokens, dtype)
    files, first = [], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "ROW_GROUP_BYTES", group_bytes)
        for number, count in enumerate(counts):
            path = folder / f"{number}.parquet"
            with RowWriter(path, row_tokens, np.dtype(dtype)) as writer:
                for begin in range(first, first + count, piece):
                    writer.write(every[begin : min(begin + piece, first + count)])
            first += count
            assert path.exists() == (count > 0)
            files += [path] * path.exists()
    if not files:
        return
    opened = RowFiles(files)
    assert (len(opened), opened.row_tokens, opened.dtype) == (len(every), row_tokens, np.dtype(dtype))
    assert all((opened.row(index) == every[index]).all() for index in range(len(every)))
    picked = np.random.default_rng(0).integers(0, len(every), 10)
    (taken,) = opened.take(picked)
    assert (taken == every[picked]).all()
    assert taken.dtype == np.dtype(dtype)


def test_rows_are_views_of_the_file(tmp_path: Path) -> None:
    rows = RowFiles([write(tmp_path / "train.parquet", numbered(100, 17))])
    assert np.shares_memory(rows.row(3), rows._segments[0][0])
    assert not rows.row(3).flags.writeable
    before = pa.total_allocated_bytes()
    more = [RowFiles([tmp_path / "train.parquet"]) for _ in range(10)]
    assert pa.total_allocated_bytes() - before < more[0].row(0).nbytes * 100
    assert not any("train.parquet" in str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.exists())


def test_any_parquet_reader_reads_rows(tmp_path: Path) -> None:
    every = numbered(5, 9)
    table = pq.read_table(write(tmp_path / "train.parquet", every))
    assert table.schema.metadata == {b"dtype": b"uint16", b"row_tokens": b"9"}
    assert [np.frombuffer(row.as_py(), "<u2").tolist() for row in table["row"]] == every.tolist()


def test_masks_travel_with_rows(tmp_path: Path) -> None:
    every = numbered(300, 9)
    masks = np.random.default_rng(0).integers(0, 2, every.shape).astype(np.uint8)
    write(tmp_path / "train.parquet", every, masks)
    opened = open_masked_rows(tmp_path, "train")
    ids, found = opened.take(np.array([299, 0, 7]))
    assert (ids == every[[299, 0, 7]]).all()
    assert (found == masks[[299, 0, 7]]).all()
    assert (opened.mask(5) == masks[5]).all()
    assert len(RowFiles([tmp_path / "train.parquet"])) == 300


@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_rows_in_another_layout_are_decoded(tmp_path: Path, nullable: bool, compression: str) -> None:
    every = numbered(1000, 9)
    schema = pa.schema([pa.field("row", pa.binary(18), nullable=nullable)], metadata={"dtype": "uint16"})
    table = pa.table([pa.array([row.tobytes() for row in every], pa.binary(18))], schema=schema)
    path = tmp_path / "train.parquet"
    pq.write_table(table, path, compression=compression, data_page_size=100)
    (taken,) = RowFiles([path]).take(np.arange(1000))
    assert (taken == every).all()


def test_no_rows_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="`validation` has 0 rows"):
        open_rows([tmp_path], "validation")


def test_shards_must_agree(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.parquet", numbered(5, 9)), write(tmp_path / "b.parquet", numbered(5, 8))]
    with pytest.raises(BadConfig, match=r"9 x uint16.*8 x uint16"):
        RowFiles(files)
    files[1] = write(tmp_path / "c.parquet", numbered(5, 9, "uint32"))
    with pytest.raises(BadConfig, match="uint32"):
        RowFiles(files)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", numbered(5, 9))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadSource, match=r"train\.parquet` is not a file of rows"):
        RowFiles([path])
    with pytest.raises(BadSource, match="not a file of rows"):
        MaskedRowFiles([write(tmp_path / "b.parquet", numbered(5, 9))])
