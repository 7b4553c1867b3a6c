"""Folders of many small files: few shards, whole files held out, the same ones in every run."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.config.compute import Compute
from nanochat.config.data import DataConfig, ShardConfig
from nanochat.config.overrides import override
from nanochat.errors import BadSource
from nanochat.execution.local import run_local
from nanochat.graphs import resolve
from nanochat.graphs.pipeline import prepare_text
from nanochat.profiles import profile
from nanochat.sources import small_files
from nanochat.sources.download import write_shard
from nanochat.sources.shard_list import fetch_listing, list_shards
from nanochat.store.store import Store


def text(number: int) -> str:
    return f"This is the short text number {number}."


def folder(root: Path, numbers: range, form: str = "txt") -> Path:
    root.mkdir(exist_ok=True)
    for number in numbers:
        path = root / f"text {number:05}.{form}"
        if form == "txt":
            path.write_text(f"{text(number)}\n")
        elif form == "jsonl":
            path.write_text(json.dumps({"text": text(number)}))
        else:
            pq.write_table(pa.table({"text": [text(number)]}), path)
    return root


def written(shards: tuple[ShardConfig, ...], out: Path) -> tuple[list[str], list[str]]:
    """Training and validation documents of all shards."""
    found: tuple[list[str], list[str]] = ([], [])
    for shard in shards:
        place = out / shard.name.replace("/", "-")
        place.mkdir(parents=True)
        write_shard(shard, place)
        for split, texts in zip(("train", "validation"), found, strict=True):
            if (file := place / f"{split}.parquet").exists():
                texts += pq.read_table(file)["text"].to_pylist()
    return found


@pytest.mark.parametrize("form", ["txt", "jsonl", "parquet"])
def test_forty_short_files_are_trained_on_and_a_tenth_is_held_out(tmp_path: Path, form: str) -> None:
    data = folder(tmp_path / "data", range(40), form)
    shards = list_shards(DataConfig(source=str(data)))
    assert [(shard.name, shard.validation) for shard in shards] == [
        ("small-files-00000", "none"), ("small-files-held-out-00000", "all"),
    ]  # fmt: skip
    train, validation = written(shards, tmp_path / "out")
    assert len(validation) == 4
    assert set(train) | set(validation) == {text(number) for number in range(40)}
    assert len(train) == 36


def test_files_that_come_later_move_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    config = DataConfig(source=str(folder(tmp_path / "data", range(20, 60))))
    _, before = written(list_shards(config, store), tmp_path / "before")
    folder(tmp_path / "data", range(20))
    folder(tmp_path / "data", range(60, 200))
    (tmp_path / "data/a book.txt").write_text("\n\n".join(text(n) * 40 for n in range(1000, 2000)))
    after = list_shards(config, store)
    train, validation = written(after, tmp_path / "after")
    assert validation == before
    assert {text(number) for number in range(200)} == {each for each in train + validation if len(each) < 100}
    assert any(shard.name == "a book" for shard in after), "a large file is a shard of its own"
    lost = next(path for path in sorted((tmp_path / "data").iterdir()) if path.read_text().strip() in before)
    lost.unlink()
    with pytest.raises(BadSource, match=r"no longer has `text .*`, which earlier runs held out"):
        list_shards(config, store)
    assert fetch_listing(config, store, new_split=True)


def test_a_large_file_among_small_ones_has_the_sample(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", range(40))
    (data / "the book.txt").write_text("\n\n".join(text(number) * 100 for number in range(1000)))
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    config = DataConfig(source=str(data), validation_documents=5)
    for _ in range(2):
        shards = list_shards(config, store)
        assert [(shard.name, shard.validation) for shard in shards] == [
            ("small-files-00000", "none"), ("the book", "sample"),
        ]  # fmt: skip
        folder(data, range(40, 50))


def test_tiny_files_in_folders_of_splits_are_gathered(tmp_path: Path) -> None:
    for split, numbers in (("train", range(40)), ("val", range(40, 52)), ("test", range(52, 60))):
        (tmp_path / "data").mkdir(exist_ok=True)
        folder(tmp_path / "data" / split, numbers)
    shards = list_shards(DataConfig(source=str(tmp_path / "data")))
    assert len(shards) == 2
    train, validation = written(shards, tmp_path / "out")
    assert (train, validation) == ([text(n) for n in range(40)], [text(n) for n in range(40, 52)])


def test_ten_thousand_files_are_few_shards(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", range(10_000))
    shards = list_shards(DataConfig(source=str(data)))
    assert len(shards) == 10
    assert sum(len(shard.files) for shard in shards) == 10_000
    assert len(shards[-1].files) == 1000 and shards[-1].validation == "all"


def test_a_folder_that_could_be_trained_on_before_has_the_same_shards(tmp_path: Path) -> None:
    """Each of its files is a shard, and its name, address and identity are all that the key has."""
    data = folder(tmp_path / "data", range(1, 40))
    (data / "a.txt").write_text("\n\n".join(text(number) * 60 for number in range(20)))
    shards = list_shards(DataConfig(source=str(data)))
    assert len(shards) == 40 and shards[0].validation == "sample"
    assert set(shards[0].canonical()) == {
        "name", "url", "identity", "text_column", "validation", "validation_documents", "world",
    }  # fmt: skip


def test_a_changed_or_damaged_small_file_is_named(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", range(40))
    shards = list_shards(DataConfig(source=str(data)))
    file = Path(shards[0].files[3][0])
    file.write_text("something else, and longer than before")
    with pytest.raises(BadSource, match=rf"{file.name}` changed since the run began"):
        written(shards, tmp_path / "out")
    file.write_bytes("naïve".encode("latin-1"))
    with pytest.raises(BadSource, match=rf"{file.name}`, line 1, is not UTF-8"):
        written(list_shards(DataConfig(source=str(data))), tmp_path / "again")


def test_few_small_files_are_refused_as_before(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", range(9))
    with pytest.raises(BadSource, match="only 1 different documents"):
        written(list_shards(DataConfig(source=str(data))), tmp_path / "out")


def test_a_short_first_file_is_not_the_one_that_is_sampled(tmp_path: Path) -> None:
    """Few files, the first of them a preface: the sample is of the first that is long enough, and stays there."""
    for name, documents in {"0_preface": 1, "1_long": 50, "2_long": 50}.items():
        lines = [json.dumps({"text": f"{name} {text(number)}"}) for number in range(documents)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    shards = list_shards(DataConfig(source=str(tmp_path)))
    assert [shard.validation for shard in shards] == ["none", "sample", "none"]
    train, validation = written(shards, tmp_path / "out")
    assert (len(train), len(validation)) == (96, 5)


def test_a_first_part_without_rows_is_not_the_one_that_is_sampled(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, rows in enumerate((0, 50, 50)):
        column = pa.array([text(row) for row in range(rows)], pa.string() if rows else pa.null())
        pq.write_table(pa.table({"text": column}), tmp_path / f"data/part-{number}.parquet")
    shards = list_shards(DataConfig(source=str(tmp_path / "data")))
    assert [shard.validation for shard in shards] == ["none", "sample", "none"]
    train, validation = written(shards, tmp_path / "out")
    assert (len(train), len(validation)) == (95, 5)


def test_a_shard_is_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_files, "MAX_COMBINED_BYTES", 400)
    shards = list_shards(DataConfig(source=str(folder(tmp_path / "data", range(40)))))
    assert len(shards) == 4
    assert max(len(shard.files) for shard in shards) <= 13


def rows_of(source: Path, folder: Path) -> tuple[int, int, dict]:
    """Training and validation rows of a source, and its data card: all stages before training."""
    config = override(profile("demo").config, [
        f"data.source={source}", "tokenizer.vocab_size=300", "rows.sequence_len=64", "data.validation_documents=10",
    ])  # fmt: skip
    store = Store(str(folder / "store"), folder / "cache")
    text = prepare_text(config, resolve.shards(config.data, store))
    results = run_local(text, store, Compute(), folder / "runs")
    rows = [results[node].metrics for node in text.rows]
    card = json.loads((results[text.data_card].path / "card.json").read_text())
    return sum(each["train_rows"] for each in rows), sum(each["validation_rows"] for each in rows), card


def test_short_files_become_rows(tmp_path: Path) -> None:
    """Each by itself would be shorter than one, and dropped."""
    train, validation, card = rows_of(folder(tmp_path / "data", range(100)), tmp_path)
    assert train > 10 and validation > 0
    assert (card["train_documents"], card["validation_documents"], card["skipped_documents"]) == (90, 10, 0)


def test_a_part_without_rows_goes_through_all_stages(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, rows in enumerate((100, 0)):
        column = pa.array([text(row) for row in range(rows)], pa.string())
        pq.write_table(pa.table({"text": column}), tmp_path / f"data/part-{number}.parquet")
    train, validation, card = rows_of(tmp_path / "data", tmp_path)
    assert train > 10 and validation > 0
    assert (card["shards"], card["train_documents"], card["validation_documents"]) == (2, 90, 10)


def test_parts_without_any_rows_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(2):
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / f"data/part-{number}.parquet")
    with pytest.raises(BadSource, match=r"part-0\.parquet` has no documents"):
        rows_of(tmp_path / "data", tmp_path)
