"""The data card: its counts, its duplicates, its samples."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import document_stats
from nanochat.data.data_card import describe
from nanochat.data.document_stats import DocumentStatsWriter, document_stats_of
from nanochat.data.token_shards import TokenFile, write_tokens
from tests.unit.test_token_shards import byte_tokenizer, raw


def noted(folder: Path, texts: list[str], *, held_out: bool = False) -> pa.Table:
    """The statistics of these texts; one token per byte, and BOS."""
    tokenizer = byte_tokenizer()
    batches = tokenizer.encode_parquet(raw(folder / "raw.parquet", texts), before=tokenizer.bos)
    return pa.Table.from_batches(
        [document_stats_of(batch, len(texts), validation=held_out) for batch in batches], document_stats.SCHEMA
    )


def written(path: Path, training: list[str], validation: list[str]) -> bytes:
    with DocumentStatsWriter(path) as to:
        for texts, held_out in ((training, False), (validation, True)):
            for batch in noted(path.parent, texts, held_out=held_out).to_batches():
                to.add(batch)
    return path.read_bytes()


@settings(max_examples=40, deadline=None)
@given(
    shards=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), min_size=1, max_size=4),
    validation=st.lists(st.sampled_from("ghij"), max_size=3),
    at_once=st.sampled_from([1, 3, 1 << 20]),
)
def test_duplicates_are_counted_over_all_shards(tmp_path_factory, shards, validation, at_once) -> None:
    folder = tmp_path_factory.mktemp("card")
    data = [written(folder / f"{i}", texts, validation if i == 0 else []) for i, texts in enumerate(shards)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanochat.data.data_card.HASHES_AT_ONCE", at_once)
        found = describe([lambda data=data: data for data in data], 5)
    training = [text for texts in shards for text in texts]
    assert found["duplicates"] == len(training) - len(set(training))
    assert found["validation_in_training"] == sum(text in validation for text in training)
    assert sum(found["lengths"]) == len(training)


def test_lengths_and_languages(tmp_path: Path) -> None:
    texts = ["x" * (length - 1) for length in (1, 2, 3, 4, 7, 8, 1000)]
    texts[-1] = ("Es war einmal ein armer Bauer, der hatte drei Kinder und kein Haus. " * 20)[:999]
    found = describe([lambda: written(tmp_path / "a", texts, ["held out"])], 5)
    assert found["lengths"] == [1, 2, 2, 1, 0, 0, 0, 0, 0, 1]
    assert (found["longest_tokens"], found["median_tokens"]) == (1000, 4)
    assert found["languages_of_documents"] == len(texts)
    assert "de" in found["languages"]
    assert sum(found["languages"].values()) == pytest.approx(1)


def test_the_same_text_is_the_same_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.data.document_stats.LANGUAGE_SAMPLE", 20)
    texts = [f"This is document number {i} of a small collection." for i in range(400)]
    tables = [noted(tmp_path, some) for some in (texts, texts[::-1])]
    looked_at = [Counter(t for t, one in zip(some, each.column("language"), strict=True) if one.is_valid)
                 for some, each in zip((texts, texts[::-1]), tables, strict=True)]  # fmt: skip
    assert looked_at[0] == looked_at[1]
    assert 5 < len(looked_at[0]) < 60


def test_the_statistics_are_of_the_same_documents(tmp_path: Path) -> None:
    texts = ["", "one", "zwei 🙂", "x" * 5000, "one"]
    with DocumentStatsWriter(tmp_path / "documents.parquet") as to:
        source = raw(tmp_path / "raw.parquet", texts)
        write_tokens(source, tmp_path / "train.parquet", byte_tokenizer(), 10, 2, source="d1g", stats=to)
    table = pq.read_table(io.BytesIO((tmp_path / "documents.parquet").read_bytes()))
    assert table["bytes"].to_pylist() == [len(text.encode()) for text in texts]
    assert table["tokens"].to_pylist() == [len(text.encode()) + 1 for text in texts]
    hashes = table["hash"].to_pylist()
    assert hashes[1] == hashes[4] and len(set(hashes)) == 4
    assert TokenFile(tmp_path / "train.parquet").source == "d1g"
