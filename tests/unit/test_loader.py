"""The loader: rows to batches, in order, resumable, on every rank."""

from __future__ import annotations

from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import rows as rows_module
from nanochat.data.blocks import BlockReader
from nanochat.data.loader import Loader, sequential
from nanochat.data.order import Order
from nanochat.data.row_index import RowSet
from nanochat.errors import BadConfig
from tests.rows import train_rows

T = 4


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> RowSet:
    """53 rows in blocks of five; every row begins with its own number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK_BYTES", 5 * 2 * (T + 1))
        every = np.arange(53, dtype=np.uint16)[:, None] + 1000 * np.arange(T + 1, dtype=np.uint16)
        return train_rows(tmp_path_factory.mktemp("rows"), every)


def order_of(rows: RowSet, seed: int, positions: np.ndarray, group_rows: int = 1 << 30) -> list[int]:
    """The number of the row at each position."""
    blocks, within, _ = Order([block.rows for block in rows.blocks], seed, group_rows).find(positions)
    return (5 * blocks + within).tolist()


def global_batches(
    rows, steps, *, world_size, micro, batch_rows=12, start_row=0, seed=7, group_rows=20
) -> list[list[int]]:
    """The first id of each row of each step, put together from all ranks."""
    found = [[-1] * batch_rows for _ in range(steps)]
    for rank in range(world_size):
        loader = Loader(rows, seed, batch_rows, rank, world_size, micro, start_row=start_row, group_rows=group_rows)
        for step in range(steps):
            firsts = [int(value) for batch in loader.step() for value in batch.inputs_BT[:, 0]]
            found[step][rank::world_size] = firsts
        assert loader.rows_consumed == start_row + steps * batch_rows
        loader.close()
    return found


@settings(max_examples=25, deadline=None)
@given(
    start_row=st.integers(0, 10_000),
    world_size=st.sampled_from([1, 2, 3, 4, 7]),
    micro=st.integers(0, 12),
    batch_rows=st.integers(7, 30),
    seed=st.integers(0, 2**63),
    group_rows=st.integers(1, 60),
)
def test_from_any_row_any_world_size_sees_the_same_batches(
    rows, start_row, world_size, micro, batch_rows, seed, group_rows
) -> None:
    """Whether a run began at this row or goes on there, with however many ranks, micro-batches and groups."""
    positions = np.arange(start_row, start_row + 3 * batch_rows)
    expected = order_of(rows, seed, positions, group_rows)
    seen = global_batches(
        rows, 3, world_size=world_size, micro=micro, batch_rows=batch_rows, start_row=start_row, seed=seed,
        group_rows=group_rows,
    )  # fmt: skip
    assert [row for step in seen for row in step] == expected


@settings(max_examples=50, deadline=None)
@given(
    block_rows=st.lists(st.integers(0, 300), min_size=1, max_size=40).filter(any),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32),
    group_rows=st.integers(1, 5000),
)
def test_an_epoch_is_a_permutation(block_rows, seed, epoch, group_rows) -> None:
    order = Order(block_rows, seed, group_rows)
    blocks, within, begins = order.find(epoch * order.rows + np.arange(order.rows))
    assert sorted(zip(blocks.tolist(), within.tolist(), strict=True)) == [
        (block, row) for block, rows in enumerate(block_rows) for row in range(rows)
    ]
    half = order.rows // 2  # wherever one begins to ask
    assert (order.find(epoch * order.rows + np.arange(half, order.rows))[1] == within[half:]).all()
    groups = list(order.groups(epoch * order.rows, (epoch + 1) * order.rows))
    assert [group.begin for group in groups] == np.unique(begins).tolist()
    for group in groups:  # what is fetched is what is read
        assert set(blocks[begins == group.begin].tolist()) == set(group.blocks.tolist())
        assert group.rows < group_rows + 300 or len(group.blocks) == 1


def test_the_order_is_recorded() -> None:
    """A checkpoint of today must mean the same rows tomorrow."""
    blocks, within, _ = Order([4, 4, 2], 42, 6).find(np.arange(12))
    assert blocks.tolist() == [1, 1, 1, 0, 0, 0, 1, 0, 2, 2, 1, 1]
    assert within.tolist() == [0, 3, 1, 2, 0, 1, 2, 3, 1, 0, 2, 3]


def test_epochs_and_seeds_differ_and_rows_are_mixed() -> None:
    count = 10_000
    orders = [Order([100] * 100, seed, count).find(np.arange(count) + epoch * count) for epoch, seed in
              ((0, 1), (1, 1), (0, 2))]  # fmt: skip
    numbers = [100 * blocks + within for blocks, within, _ in orders]
    for order in numbers:
        assert abs(np.corrcoef(np.arange(count), order)[0, 1]) < 0.05
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert all((a == b).mean() < 0.01 for a, b in pairwise(numbers))


def test_a_hundred_billion_rows_need_little_memory() -> None:
    order = Order([10**7] * 10**4, 0, 10**9)
    blocks, within, _ = order.find(np.arange(1000))
    assert len(np.unique(10**7 * blocks + within)) == 1000
    assert len(np.unique(blocks)) > 90


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
    batch = next(sequential(train_rows(tmp_path, np.full((3, T + 1), high, dtype)), 2))
    assert (batch.inputs_BT == high).all()
    assert (batch.targets_BT == high).all()


def test_masked_targets_are_ignored(tmp_path: Path) -> None:
    ids = np.arange(10, dtype=np.uint16).reshape(2, T + 1)
    masks = np.array([[1, 0, 0, 1, 1], [0, 0, 0, 0, 1]], np.uint8)
    (batch,) = sequential(train_rows(tmp_path, ids, masks), 5)
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


def test_more_ranks_than_blocks(rows) -> None:
    assert len(rows.blocks) == 11
    assert global_batches(rows, 3, world_size=30, micro=0, batch_rows=30) == (
        global_batches(rows, 3, world_size=1, micro=0, batch_rows=30)
    )


def test_more_ranks_than_rows_are_refused(rows) -> None:
    with pytest.raises(BadConfig, match="2 rows cannot be shared by 3 ranks"):
        Loader(rows, 0, 2, 0, 3)


def test_an_error_of_the_thread_reaches_the_trainer(rows, monkeypatch) -> None:
    monkeypatch.setattr(BlockReader, "take", lambda self, *places, **memory: 1 / 0)
    loader = Loader(rows, 0, 4)
    with pytest.raises(ZeroDivisionError):
        next(iter(loader))


def test_a_dropped_iterator_ends_its_thread(rows) -> None:
    batches = sequential(rows, 1)
    assert len(list(islice(batches, 2))) == 2
    batches.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("masked", [False, True])
def test_a_gpu_that_lags_behind_gets_the_same_batches(tmp_path: Path, masked: bool) -> None:
    """Copies wait behind the GPU's work while the thread fills buffer after buffer: none may be filled too early."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 1 << 16, (64, 513)).astype(np.uint16)
    rows = train_rows(tmp_path, ids, generator.integers(0, 2, ids.shape).astype(np.uint8) if masked else None)
    found = []
    with closing(Loader(rows, 1, 16)) as here, closing(Loader(rows, 1, 16, device="cuda")) as there:
        expected = list(islice(here, 50))
        for batch in islice(there, 50):
            torch.cuda._sleep(20_000_000)
            found.append(batch)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.inputs_BT.cpu() == theirs.inputs_BT).all()
        assert (mine.targets_BT.cpu() == theirs.targets_BT).all()
