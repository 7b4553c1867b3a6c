"""Packing of whole files; the packer itself is tested with the crate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import packing
from nanochat.data.packing import pack_tokens, windows
from nanochat.data.rows import RowFiles
from nanochat.data.shards import TokenFile, write_tokens
from tests.unit.test_shards import BOS, ByteTokenizer, raw


def tokens(folder: Path, texts: list[str], group_tokens: int = 64) -> Path:
    path = folder / "tokens.parquet"
    write_tokens(raw(folder / "raw.parquet", texts), path, ByteTokenizer(), group_tokens, 1)
    return path


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text("abc", max_size=60), min_size=1, max_size=80),
    row_tokens=st.integers(9, 40),
    window_tokens=st.integers(1, 500),
)
def test_every_token_is_in_a_row_or_counted(tmp_path_factory, texts, row_tokens, window_tokens) -> None:
    folder = tmp_path_factory.mktemp("packing")
    source = tokens(folder, texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "WINDOW_TOKENS", window_tokens)
        patch.setattr(packing, "WINDOW_ROWS", 2)
        packed = pack_tokens(source, folder / "rows.parquet", row_tokens)
    assert (folder / "rows.parquet").exists() == (packed.rows > 0)
    given_tokens = TokenFile(source).tokens
    if packed.rows == 0:
        assert packed.dropped_tokens == given_tokens
        return
    rows = RowFiles([folder / "rows.parquet"])
    (every,) = rows.take(np.arange(len(rows)))
    assert every.shape == (packed.rows, row_tokens)
    assert (every[:, 0] == BOS).all()
    assert set(np.unique(every)) <= {BOS, *b"abc"}


def test_windows_hold_whole_row_groups(tmp_path: Path) -> None:
    source = tokens(tmp_path, ["abcd"] * 1000)  # 5 tokens each, 65 in a row group
    sizes = [(len(ids), len(offsets) - 1) for ids, offsets in windows(TokenFile(source), 130)]
    assert sizes == [(130, 26)] * 38 + [(60, 12)]
    every = np.concatenate([ids for ids, _ in windows(TokenFile(source), 130)])
    assert (every == np.concatenate([ids for ids, _ in TokenFile(source).row_groups()])).all()
    assert all((ids[offsets[:-1]] == BOS).all() for ids, offsets in windows(TokenFile(source), 130))


def test_the_result_is_a_pure_function(tmp_path: Path) -> None:
    source = tokens(tmp_path, ["abc" * (number % 50) for number in range(2000)], 4096)
    for name in ("a", "b"):
        pack_tokens(source, tmp_path / name, 33)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
