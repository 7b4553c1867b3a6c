"""Rows from a real S3 server that misbehaves: every batch comes, and is right."""

from __future__ import annotations

import random
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from nanochat.data import blocks as blocks_module
from nanochat.data import rows as rows_module
from nanochat.data.loader import Loader
from nanochat.data.row_index import RowIndex, RowSet
from nanochat.store.objects import Objects
from tests.faults import Fault, faulty
from tests.rows import write_rows

T = 64
pytestmark = pytest.mark.s3


@pytest.fixture
def index(root_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowIndex:
    """1,000 rows in forty blocks on the server."""
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 25 * 2 * (T + 1))
    ids = np.random.default_rng(0).integers(0, 1 << 16, (1000, T + 1)).astype(np.uint16)
    found = RowIndex.model_validate_json(write_rows(tmp_path / "rows", train=ids).read_text())
    objects = Objects(root_s3)
    for block in found.blocks["train"]:
        objects.upload(tmp_path / "rows" / block.path, block.path)
    return found.model_copy(update={"store": root_s3, "cache": str(tmp_path / "cache")})


def batches(index: RowIndex, count: int) -> list[np.ndarray]:
    loader = Loader(RowSet(index, "train"), 7, 20, group_rows=100)
    try:
        return [batch.inputs_BT.numpy() for batch in islice(loader, count)]
    finally:
        loader.close()


def test_faults_change_no_batch(index, s3_server, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_ROWS_GB", "0")
    expected = batches(index, 60)
    generator = random.Random(1)

    def fault(_: int) -> Fault:
        return generator.choice(("", "", "", "", "drop", "short", "busy", 0.2))

    with faulty(s3_server["AWS_ENDPOINT_URL"], fault) as (address, done):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        seen = batches(index.model_copy(update={"cache": str(tmp_path / "other")}), 60)
    assert {"", "drop", "short", "busy", 0.2} == set(done)
    assert all((a == b).all() for a, b in zip(seen, expected, strict=True))
    assert len(list((tmp_path / "other").glob("*.rows"))) < 20


def test_training_goes_on_while_the_store_is_away(index, s3_server, monkeypatch):
    """What lies ahead, the group that is read and the next one, is enough for so long."""
    monkeypatch.setattr(blocks_module, "PAUSE_S", (0.05, 0.1))
    away = False

    def fault(_: int) -> Fault:
        return "drop" if away else ""

    with faulty(s3_server["AWS_ENDPOINT_URL"], fault) as (address, done):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        loader = Loader(RowSet(index, "train"), 7, 20, group_rows=100)
        found = [batch.inputs_BT for batch in islice(loader, 6)]  # the second group is read, the third is on its way
        while len(done) < 12:
            time.sleep(0.01)
        away = True
        found += [batch.inputs_BT for batch in islice(loader, 4)]
        away = False
        found += [batch.inputs_BT for batch in islice(loader, 40)]
        loader.close()
    assert len({tuple(batch[:, :4].flatten().tolist()) for batch in found}) == 50
