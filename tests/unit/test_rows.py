"""Rows from the writer to the reader: the same, checked, from a cache that is shared and bounded."""

from __future__ import annotations

import json
import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import blocks as blocks_module
from nanochat.data import rows as rows_module
from nanochat.data.blocks import BlockReader
from nanochat.data.order import Order
from nanochat.data.row_index import RowSet, open_rows, write_index
from nanochat.data.rows import RowWriter
from nanochat.errors import BadConfig, BadSource, DamagedArtifact, StoreUnreachable
from nanochat.store.artifacts import Artifact
from nanochat.store.objects import Objects
from nanochat.store.producer import describe_producer
from nanochat.store.store import Store
from tests.rows import every, index_folder, train_rows, write_rows


def numbered(count: int, row_tokens: int, dtype: str = "uint16") -> np.ndarray:
    return np.arange(count * row_tokens).reshape(count, row_tokens).astype(dtype)


def cached(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("*.rows"))


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 120),
    row_tokens=st.integers(2, 40),
    dtype=st.sampled_from(["uint16", "uint32"]),
    piece=st.integers(1, 20),
    block_bytes=st.integers(1, 2000),
)
def test_rows_come_back_as_they_were_written(tmp_path_factory, count, row_tokens, dtype, piece, block_bytes) -> None:
    folder = tmp_path_factory.mktemp("rows")
    written = numbered(count, row_tokens, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK_BYTES", block_bytes)
        with RowWriter(folder, "train", row_tokens, np.dtype(dtype)) as writer:
            for begin in range(0, count, piece):
                writer.write(written[begin : begin + piece])
        assert len(list(folder.glob("train-*.parquet"))) == -(-count // writer.block_rows)
        index = index_folder(folder, row_tokens, dtype, {"train": count})
    if count:
        (found,) = every(open_rows(index, "train"))
        assert (found == written).all()
        assert found.dtype == np.dtype(dtype)


def test_any_parquet_reader_reads_rows(tmp_path: Path) -> None:
    written = numbered(5, 9)
    write_rows(tmp_path, train=written)
    table = pq.read_table(tmp_path / "train-00000.parquet")
    assert table.schema.metadata == {b"dtype": b"uint16", b"row_tokens": b"9"}
    assert [np.frombuffer(row.as_py(), "<u2").tolist() for row in table["row"]] == written.tolist()


def test_masks_travel_with_rows(tmp_path: Path) -> None:
    written = numbered(300, 9)
    masks = np.random.default_rng(0).integers(0, 2, written.shape).astype(np.uint8)
    ids, found = every(train_rows(tmp_path, written, masks))
    assert (ids == written).all()
    assert (found == masks).all()


def test_no_rows_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="`validation` has 0 rows"):
        open_rows(write_rows(tmp_path, train=numbered(5, 9)), "validation")


def published(store: Store, folder: Path, name: str, rows: np.ndarray) -> Artifact:
    """Rows as the stage publishes them."""
    folder.mkdir()
    with RowWriter(folder, "train", rows.shape[1], rows.dtype) as writer:
        writer.write(rows)
    metrics = {"sequence_len": rows.shape[1] - 1, "dtype": rows.dtype.name, "block_rows": writer.block_rows,
               "train_rows": len(rows), "validation_rows": 0}  # fmt: skip
    manifest = store.publish(
        folder, stage="pack", stage_version=1, kind="Rows", key=name * 64, config={}, inputs={}, metrics=metrics,
        producer=describe_producer(datetime.now(UTC)),
    )  # fmt: skip
    return store.artifact(manifest, reused=False)


def test_an_index_numbers_the_rows_of_all_shards_through(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 300)
    store, written = Store(str(tmp_path / "store"), tmp_path / "cache"), numbered(100, 9)
    shards = [published(store, tmp_path / n, n, part) for n, part in (("a", written[:37]), ("b", written[37:]))]
    rows = open_rows(write_index(shards, tmp_path), "train")
    assert [block.rows for block in rows.blocks] == [16, 16, 5, 16, 16, 16, 15]
    assert (every(rows)[0] == written).all()


def test_shards_must_agree(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    a, b, c = (
        published(store, tmp_path / name, name, rows)
        for name, rows in (("a", numbered(5, 9)), ("b", numbered(5, 8)), ("c", numbered(5, 9, "uint32")))
    )
    with pytest.raises(BadConfig, match=r"pack/aaaaaaaa has T = 8 of uint16, pack/bbbbbbbb has T = 7"):
        write_index([a, b], tmp_path)
    with pytest.raises(BadConfig, match="uint32"):
        write_index([a, c], tmp_path)


# --- what the store holds -------------------------------------------------------------------------------------------


def test_a_flipped_byte_in_the_store_is_found(tmp_path: Path) -> None:
    rows = train_rows(tmp_path, numbered(50, 9))
    file = tmp_path / "train-00000.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedArtifact, match=r"`train-00000\.parquet` does not match its manifest"):
        every(rows)
    file.unlink()
    with pytest.raises(DamagedArtifact, match="is missing"):
        every(rows)
    assert cached(tmp_path) == []


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, train=numbered(50, 9))
    with pytest.raises(BadSource, match=r"`train-00000\.parquet` is not a file of packed rows"):
        every(open_rows(index_folder(tmp_path, 8, "uint16", {"train": 50}), "train"))
    (tmp_path / "train-00000.parquet").write_bytes(b"nonsense")
    with pytest.raises(BadSource, match=r"`train-00000\.parquet` is not a file of packed rows"):
        every(open_rows(index_folder(tmp_path, 9, "uint16", {"train": 50}), "train"))


# --- the cache ------------------------------------------------------------------------------------------------------


def test_a_damaged_copy_is_fetched_again(tmp_path: Path) -> None:
    written = numbered(50, 9)
    rows = train_rows(tmp_path, written)
    every(rows)
    (copy,) = cached(tmp_path)
    good = copy.read_bytes()
    for bad in (b"", good[:-1], good[:100] + b"\xff" + good[101:]):
        copy.write_bytes(bad)
        assert (every(rows)[0] == written).all()
        assert copy.read_bytes() == good


def test_a_block_that_is_here_is_not_fetched(tmp_path: Path, monkeypatch) -> None:
    rows = train_rows(tmp_path, numbered(50, 9))
    every(rows)
    monkeypatch.setattr(Objects, "read", lambda self, path: 1 / 0)
    every(rows)


def _read(index: Path, reads: Path) -> None:
    original = Objects.read

    def counted(self: Objects, path: str) -> bytes:
        with reads.open("a") as file:
            file.write(path + "\n")
        return original(self, path)

    Objects.read = counted
    every(open_rows(index, "train"))


@pytest.mark.parametrize("limit_gb", ["50", "0"])
def test_processes_share_what_one_of_them_fetched(tmp_path: Path, monkeypatch, limit_gb: str) -> None:
    """Or, where the cache has no room, take each other's blocks away, and go on all the same."""
    monkeypatch.setenv("NANOCHAT_ROWS_GB", limit_gb)
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 200)
    index = write_rows(tmp_path, train=numbered(200, 9))
    context = multiprocessing.get_context("spawn")  # as ranks are: nothing of this process is theirs
    processes = [context.Process(target=_read, args=(index, tmp_path / "reads")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    reads = (tmp_path / "reads").read_text().split()
    assert len(set(reads)) == 19
    assert limit_gb == "0" or len(reads) == 19


def streamed(rows: RowSet, group_rows: int, epochs: int, seed: int | None = 3) -> tuple[BlockReader, np.ndarray]:
    """Reads epochs in batches of 10; the reader is open still."""
    order = Order([block.rows for block in rows.blocks], seed, group_rows)
    reader = BlockReader(rows, order.groups(0))
    found = []
    for begin in range(0, epochs * len(rows), 10):
        blocks, within, begins = order.find(np.arange(begin, min(begin + 10, epochs * len(rows))))
        found.append(reader.take(blocks, within, int(begins[0]))[0])
    return reader, np.concatenate(found)


def test_the_cache_is_bounded_and_the_order_does_not_know(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 10 * 9 * 2)
    written = numbered(400, 9)
    rows = train_rows(tmp_path, written)
    reader, plenty = streamed(rows, 40, 2)
    reader.close()
    assert len(cached(tmp_path)) == 40
    monkeypatch.setenv("NANOCHAT_ROWS_GB", "1e-9")
    for copy in cached(tmp_path)[1:]:
        copy.unlink()
    reader, few = streamed(rows, 40, 2)
    assert len(cached(tmp_path)) <= 12  # two groups of four, and what was being fetched
    reader.close()
    assert (plenty == few).all()
    assert sorted(plenty[:400, 0].tolist()) == written[:, 0].tolist()


def test_training_begins_before_all_is_here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 10 * 9 * 2)
    rows = train_rows(tmp_path, numbered(400, 9))
    order = Order([block.rows for block in rows.blocks], 3, 40)
    reader = BlockReader(rows, order.groups(0))
    blocks, within, begins = order.find(np.arange(10))
    reader.take(blocks, within, int(begins[0]))
    reader.close()
    assert len(cached(tmp_path)) <= 8


def test_requests_to_a_store_that_fails_for_a_while_are_repeated(tmp_path: Path, monkeypatch) -> None:
    rows = train_rows(tmp_path, numbered(50, 9))
    original, failures = Objects.read, iter([True, True, False])

    def flaky(self: Objects, path: str) -> bytes:
        if next(failures, False):
            raise StoreUnreachable("It does not answer.")
        return original(self, path)

    monkeypatch.setattr(Objects, "read", flaky)
    assert (every(rows)[0] == numbered(50, 9)).all()

    def dead(self: Objects, path: str) -> bytes:
        raise StoreUnreachable("It does not answer.")

    (tmp_path / "cache" / cached(tmp_path)[0].name).unlink()
    monkeypatch.setattr(Objects, "read", dead)
    monkeypatch.setattr(blocks_module, "GIVE_UP_S", 0.2)
    with pytest.raises(StoreUnreachable, match="does not answer"):
        every(rows)


def test_the_index_is_json_without_secrets(tmp_path: Path) -> None:
    index = json.loads(write_rows(tmp_path, train=numbered(5, 9)).read_text())
    assert set(index) == {"store", "cache", "row_tokens", "dtype", "masked", "blocks"}
