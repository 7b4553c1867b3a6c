"""Packing of whole files; the packer itself is tested with the crate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import packing
from nanochat.data.packing import pack_tokens, packing_groups
from nanochat.data.row_index import open_rows
from nanochat.data.token_shards import TokenFile, write_tokens
from tests.rows import every, index_folder
from tests.unit.test_token_shards import BOS, byte_tokenizer, raw


def tokens(folder: Path, texts: list[str], group_tokens: int = 64) -> Path:
    path = folder / "tokens.parquet"
    write_tokens(raw(folder / "raw.parquet", texts), path, byte_tokenizer(), group_tokens, 1)
    return path


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text("abc", max_size=60), min_size=1, max_size=80),
    row_tokens=st.integers(9, 40),
    group_tokens=st.integers(1, 500),
)
def test_every_token_is_in_a_row_or_counted(tmp_path_factory, texts, row_tokens, group_tokens) -> None:
    folder = tmp_path_factory.mktemp("packing")
    source = tokens(folder, texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "GROUP_TOKENS", group_tokens)
        patch.setattr(packing, "GROUP_ROWS", 2)
        packed = pack_tokens(source, folder, "train", row_tokens)
    assert packed.tokens == TokenFile(source).tokens
    if packed.rows == 0:
        assert packed.dropped_tokens == packed.tokens
        return
    (found,) = every(open_rows(index_folder(folder, row_tokens, "uint16", {"train": packed.rows}), "train"))
    assert found.shape == (packed.rows, row_tokens)
    assert (found[:, 0] == BOS).all()
    assert set(np.unique(found)) <= {BOS, *b"abc"}
    letters = [np.concatenate([ids for ids, _ in TokenFile(source).row_groups()]), found.ravel()]
    given_letters, kept = ((ids != BOS).sum() for ids in letters)
    assert given_letters - packed.dropped_tokens <= kept <= given_letters


def test_windows_hold_whole_row_groups(tmp_path: Path) -> None:
    source = tokens(tmp_path, ["abcd"] * 1000)  # 5 tokens each, 65 in a row group
    sizes = [(len(ids), len(offsets) - 1) for ids, offsets in packing_groups(TokenFile(source), 130)]
    assert sizes == [(130, 26)] * 38 + [(60, 12)]
    every = np.concatenate([ids for ids, _ in packing_groups(TokenFile(source), 130)])
    assert (every == np.concatenate([ids for ids, _ in TokenFile(source).row_groups()])).all()
    assert all((ids[offsets[:-1]] == BOS).all() for ids, offsets in packing_groups(TokenFile(source), 130))


def test_the_result_is_a_pure_function(tmp_path: Path) -> None:
    source = tokens(tmp_path, ["abc" * (number % 50) for number in range(2000)], 4096)
    for name in ("a", "b"):
        pack_tokens(source, tmp_path, name, 33)
    assert (tmp_path / "a-00000.parquet").read_bytes() == (tmp_path / "b-00000.parquet").read_bytes()


def test_a_long_document_fills_rows_and_delays_no_other(tmp_path: Path) -> None:
    """A document of fifty rows, and short ones: every token of it is there, in pieces that begin with BOS."""
    text = "".join("abcdefghij"[number % 10] for number in range(32 * 50))
    source = tokens(tmp_path, ["x" * 16, text, "y" * 15], 4096)
    packed = pack_tokens(source, tmp_path, "train", 33)
    (found,) = every(open_rows(index_folder(tmp_path, 33, "uint16", {"train": packed.rows}), "train"))
    assert packed.rows == 50 + 1
    assert packed.dropped_tokens == 0
    assert bytes(found[:50, 1:].ravel().astype(np.uint8)).decode() == text
