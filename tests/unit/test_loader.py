from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data.loader import Loader, row_at, sequential
from nanochat.data.rows import MaskedRowFiles, RowFiles, RowWriter
from nanochat.errors import BadConfig

T = 4


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> RowFiles:
    """53 rows over two files; every row begins with its own number."""
    folder = tmp_path_factory.mktemp("rows")
    every = np.arange(53, dtype=np.uint16)[:, None] + 1000 * np.arange(T + 1, dtype=np.uint16)
    for name, part in (("a", every[:30]), ("b", every[30:])):
        with RowWriter(folder / name, T + 1, part.dtype) as writer:
            writer.write(part)
    return RowFiles([folder / "a", folder / "b"])


def global_batches(rows, steps, *, world_size, micro, batch_rows=12, start_row=0, seed=7) -> list[list[int]]:
    """The first id of each row of each step, put together from all ranks."""
    found = [[-1] * batch_rows for _ in range(steps)]
    for rank in range(world_size):
        loader = Loader(rows, seed, batch_rows, rank, world_size, micro, start_row=start_row)
        for step in range(steps):
            firsts = [int(value) for batch in loader.step() for value in batch.inputs_BT[:, 0]]
            found[step][rank::world_size] = firsts
        assert loader.rows_consumed == start_row + steps * batch_rows
        loader.close()
    return found


@settings(max_examples=25, deadline=None)
@given(
    world_size=st.sampled_from([1, 2, 3, 4, 7]),
    micro=st.integers(0, 12),
    batch_rows=st.integers(7, 30),
    seed=st.integers(0, 2**63),
)
def test_any_world_size_and_micro_batch_sees_the_same_batches(rows, world_size, micro, batch_rows, seed) -> None:
    expected = row_at(np.arange(4 * batch_rows), len(rows), seed).reshape(4, batch_rows).tolist()
    seen = global_batches(rows, 4, world_size=world_size, micro=micro, batch_rows=batch_rows, seed=seed)
    assert seen == expected


@settings(max_examples=15, deadline=None)
@given(start_row=st.integers(0, 10_000), world_size=st.sampled_from([1, 2, 3]))
def test_it_goes_on_at_any_row(rows, start_row, world_size) -> None:
    whole = row_at(np.arange(start_row + 24), len(rows), 7)
    resumed = global_batches(rows, 2, world_size=world_size, micro=5, start_row=start_row)
    assert resumed[0] + resumed[1] == whole[start_row:].tolist()


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**32))
def test_an_epoch_is_a_permutation(count, seed, epoch) -> None:
    order = row_at(np.uint64(epoch) * np.uint64(count) + np.arange(count, dtype=np.uint64), count, seed)
    assert sorted(order.tolist()) == list(range(count))


def test_the_order_is_recorded() -> None:
    """A checkpoint of today must mean the same rows tomorrow."""
    assert row_at(np.arange(12), 10, 42).tolist() == [4, 7, 0, 6, 2, 1, 9, 8, 5, 3, 8, 2]


def test_epochs_and_seeds_differ_and_rows_are_mixed() -> None:
    count = 10_000
    orders = [row_at(np.arange(count) + epoch * count, count, seed) for epoch, seed in ((0, 1), (1, 1), (0, 2))]
    for order in orders:
        assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.05
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert all((a == b).mean() < 0.01 for a, b in pairwise(orders))


def test_a_hundred_billion_rows_need_no_memory() -> None:
    order = row_at(np.arange(1000), 10**11, 0)
    assert len(np.unique(order)) == 1000
    assert order.max() > 9 * 10**10


def test_targets_are_the_next_tokens(rows) -> None:
    loader = Loader(rows, 0, 8)
    inputs_BT, targets_BT = next(iter(loader))
    loader.close()
    assert inputs_BT.dtype == targets_BT.dtype == torch.int64
    assert inputs_BT.shape == targets_BT.shape == (8, T)
    assert (targets_BT[:, :-1] == inputs_BT[:, 1:]).all()
    assert (targets_BT == inputs_BT + 1000).all()


@pytest.mark.parametrize(("dtype", "high"), [("uint16", 65_535), ("uint32", 1 << 24)])
def test_high_ids_stay_positive(tmp_path: Path, dtype, high) -> None:
    with RowWriter(tmp_path / "a", T + 1, np.dtype(dtype)) as writer:
        writer.write(np.full((3, T + 1), high, dtype))
    batch = next(sequential(RowFiles([tmp_path / "a"]), 2))
    assert (batch.inputs_BT == high).all()
    assert (batch.targets_BT == high).all()


def test_masked_targets_are_ignored(tmp_path: Path) -> None:
    ids = np.arange(10, dtype=np.uint16).reshape(2, T + 1)
    with RowWriter(tmp_path / "a", T + 1, ids.dtype, masked=True) as writer:
        writer.write(ids, np.array([[1, 0, 0, 1, 1], [0, 0, 0, 0, 1]], np.uint8))
    (batch,) = sequential(MaskedRowFiles([tmp_path / "a"]), 5)
    assert batch.targets_BT.tolist() == [[-1, -1, 3, 4], [-1, -1, -1, 9]]
    assert batch.inputs_BT.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 60])
@pytest.mark.parametrize("limit", [0, 10, 1000])
def test_validation_sees_every_row_once(rows, world_size, limit) -> None:
    seen = [
        int(first)
        for rank in range(world_size)
        for batch in sequential(rows, 4, rank, world_size, limit_rows=limit)
        for first in batch.inputs_BT[:, 0]
    ]
    assert sorted(seen) == list(range(min(limit or 53, 53)))


def test_more_ranks_than_rows_are_refused(rows) -> None:
    with pytest.raises(BadConfig, match="2 rows cannot be shared by 3 ranks"):
        Loader(rows, 0, 2, 0, 3)


def test_an_error_of_the_thread_reaches_the_trainer(rows, monkeypatch) -> None:
    monkeypatch.setattr(RowFiles, "take", lambda self, indices: 1 / 0)
    loader = Loader(rows, 0, 4)
    with pytest.raises(ZeroDivisionError):
        next(iter(loader))


def test_a_dropped_iterator_ends_its_thread(rows) -> None:
    batches = sequential(rows, 1)
    assert len(list(islice(batches, 2))) == 2
    batches.close()
