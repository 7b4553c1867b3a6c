"""From a source to raw shards: formats, checks, and the validation split."""

from __future__ import annotations

import gc
import gzip
import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.config.data import DataConfig, ShardConfig, WorldConfig
from nanochat.errors import BadSource, SourceUnreachable
from nanochat.sources import hub, retry
from nanochat.sources.download import write_shard
from nanochat.sources.shard_list import fetch_listing, list_shards, shard_names
from nanochat.sources.validation_split import smallest_hashes
from nanochat.store.store import Store


def texts(count: int, prefix: str = "document") -> list[str]:
    return [f"{prefix} {number}: " + "wörd " * (number % 7 + 1) for number in range(count)]


def parquet(path: Path, documents: list[str | None], column: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": range(len(documents)), column: pa.array(documents, pa.string())}), path)
    return path


def written(shard: ShardConfig, folder: Path) -> tuple[list[str], list[str], dict]:
    """Training and validation documents of a shard, and its metrics."""
    out = folder / f"out-{shard.name.replace('/', '-')}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    metrics = write_shard(shard, out)
    assert [path.name for path in folder.iterdir() if path.name.startswith("fetched-")] == []
    found = []
    for split in ("train", "validation"):
        path = out / f"{split}.parquet"
        found.append(pq.read_table(path)["text"].to_pylist() if path.exists() else [])
        assert path.exists() == bool(found[-1])
        assert len(found[-1]) == metrics[f"{split}_documents"]
        assert sum(len(text.encode()) for text in found[-1]) == metrics[f"{split}_bytes"]
    return found[0], found[1], metrics


def only(config: DataConfig) -> ShardConfig:
    (shard,) = list_shards(config)
    return shard


# --- formats


def test_a_parquet_shard_keeps_its_order_and_loses_nothing(tmp_path: Path) -> None:
    documents = texts(3000)
    parquet(tmp_path / "data/shard.parquet", [*documents, None, ""])
    shard = only(DataConfig(source=str(tmp_path / "data"), validation_documents=50))
    train, validation, metrics = written(shard, tmp_path)
    assert len(validation) == 50
    held = set(validation)
    assert train == [text for text in documents if text not in held]
    assert validation == [text for text in documents if text in held]
    assert metrics["skipped_documents"] == 2
    assert metrics["train_characters"] == sum(map(len, train))
    groups = pq.ParquetFile(tmp_path / "out-shard/train.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [1024, 1024, 902]
    assert groups.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize("kind", ["large_string", "dictionary"])
def test_other_kinds_of_string_columns_are_read(tmp_path: Path, kind: str) -> None:
    column = pa.array(texts(40))
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(pa.large_string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    train, validation, _ = written(only(DataConfig(source=str(tmp_path / "a.parquet"))), tmp_path)
    assert sorted(train + validation) == sorted(texts(40))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson"])
def test_json_lines_are_read(tmp_path: Path, suffix: str) -> None:
    lines = "\n".join(json.dumps({"body": text, "n": 1}) for text in texts(2000)) + "\n\n" + '{"n": 2}\n'
    path = tmp_path / f"a{suffix}"
    if suffix.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        with pa.output_stream(str(path), compression="zstd" if suffix.endswith(".zst") else None) as stream:
            stream.write(lines.encode())
    train, validation, metrics = written(only(DataConfig(source=str(path), text_column="body")), tmp_path)
    assert sorted(train + validation) == sorted(texts(2000))
    assert metrics["skipped_documents"] == 1


def test_paragraphs_of_plain_text_are_gathered(tmp_path: Path) -> None:
    paragraphs = [f"{number} " + "word " * 60 for number in range(200)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    train, validation, _ = written(only(DataConfig(source=str(tmp_path / "book.txt"))), tmp_path)
    documents = sorted(train + validation, key=lambda text: int(text.split()[0]))
    assert all(2000 <= len(text) < 2400 for text in documents[:-1])
    assert "\n\n".join(documents).split() == " ".join(paragraphs).split()


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("count", [3, 5000])
def test_a_list_of_addresses_is_not_taken_for_text(tmp_path: Path, count: int, sums: bool) -> None:
    before = f"{'a1' * 32}  " if sums else ""
    addresses = [f"{before}https://host.example/data/shard_{i:05d}.parquet?download=true" for i in range(count)]
    (tmp_path / "urls.txt").write_text("# shards\n" + "\r\n".join(addresses))
    with pytest.raises(BadSource, match=r"urls\.txt` is a list of addresses, not text") as caught:
        written(only(DataConfig(source=str(tmp_path / "urls.txt"))), tmp_path)
    assert "wget -i" in caught.value.hint


def test_text_without_blank_lines_is_cut(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("x" * (3 << 20))
    (tmp_path / "validation.txt").write_text("y" * 10)
    train, validation = list_shards(DataConfig(source=str(tmp_path)))
    assert written(train, tmp_path)[0] == ["x" * (1 << 20)] * 3
    assert written(validation, tmp_path)[1] == ["y" * 10]


# --- the validation split


def test_adding_shards_moves_nothing(tmp_path: Path) -> None:
    for number in range(2):
        parquet(tmp_path / f"data/shard_{number}.parquet", texts(500, f"shard {number}"))
    before = list_shards(DataConfig(source=str(tmp_path / "data")))
    held = [written(shard, tmp_path)[1] for shard in before]
    for number in range(2, 4):
        parquet(tmp_path / f"data/shard_{number}.parquet", texts(500, f"shard {number}"))
    after = list_shards(DataConfig(source=str(tmp_path / "data")))
    assert after[:2] == before
    assert [shard.validation for shard in after] == ["sample", "none", "none", "none"]
    assert [len(documents) for documents in held] == [50, 0]


@settings(max_examples=25, deadline=None)
@given(
    first=st.sets(st.integers(0, 30), min_size=1, max_size=6),
    later=st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=6), max_size=4),
)
def test_the_split_stays_whatever_shards_come_and_go(tmp_path_factory, first: set[int], later: list[set[int]]) -> None:
    """The validation documents of the first run are those of all later ones, or a run is refused."""
    folder = tmp_path_factory.mktemp("split")
    store = Store(str(folder / "store"), folder / "cache")
    config = DataConfig(source=str(folder / "data"), validation_documents=3)
    held: list[str] | None = None
    for there in (first, *later):
        shutil.rmtree(folder / "data", ignore_errors=True)
        for number in there:
            path = parquet(folder / f"data/shard_{number:02}.parquet", texts(30, f"shard {number}"))
            os.utime(path, (1, 1))
        if held is not None and min(first) not in there:
            with pytest.raises(BadSource, match=f"no longer has the shard `shard_{min(first):02}`"):
                list_shards(config, store)
            continue
        shards = list_shards(config, store)
        assert len(shards) == len(there)
        now = [text for shard in shards for text in written(shard, folder)[1]]
        assert len(now) == 3 and now == (held or now)
        held = now


def test_a_new_split_is_drawn_on_request(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), tmp_path / "cache")
    config = DataConfig(source=str(tmp_path / "data"), train_shards=1)
    parquet(tmp_path / "data/shard_1.parquet", texts(30))
    list_shards(config, store)
    parquet(tmp_path / "data/shard_0.parquet", texts(30))
    assert [shard.name for shard in list_shards(config, store)] == ["shard_1"], "the carrier is among the first"
    assert [shard.name for shard in fetch_listing(config, store, new_split=True)] == ["shard_0"]
    assert [shard.name for shard in list_shards(config, store)] == ["shard_0"]


def test_adding_world_shards_moves_nothing() -> None:
    few, many = (list_shards(DataConfig(world=WorldConfig(shards=shards))) for shards in (2, 5))
    assert many[:2] == few
    assert [shard.name for shard in few] == ["world_00000", "world_00001"]


def test_the_sample_is_chosen_by_content_not_by_order(tmp_path: Path) -> None:
    documents = texts(400)
    samples = []
    for name, order in (("a", documents), ("b", documents[::-1])):
        parquet(tmp_path / f"{name}.parquet", order)
        samples.append(written(only(DataConfig(source=str(tmp_path / f"{name}.parquet"))), tmp_path)[1])
    assert samples[0] == samples[1][::-1]
    assert len(samples[0]) == 40


@settings(max_examples=100, deadline=None)
@given(hashes=st.lists(st.integers(0, 60), max_size=300), limit=st.integers(1, 40), order=st.randoms())
def test_a_sample_is_never_over_its_limits(hashes, limit, order) -> None:
    import numpy as np

    chosen = smallest_hashes(np.array(hashes, np.uint64), limit)
    assert sum(value in set(chosen.tolist()) for value in hashes) <= min(limit, len(hashes) // 10)
    shuffled = list(hashes)
    order.shuffle(shuffled)
    assert smallest_hashes(np.array(shuffled, np.uint64), limit).tolist() == chosen.tolist()


def test_equal_documents_are_on_one_side(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", texts(200) * 2)
    train, validation, _ = written(only(DataConfig(source=str(tmp_path / "a.parquet"))), tmp_path)
    assert not set(train) & set(validation)
    assert len(validation) == 40


@pytest.mark.parametrize("name", ["validation", "val", "valid-00000-of-00002", "VAL_3", "validation/part_0"])
def test_a_named_validation_shard_is_held_out_whole(tmp_path: Path, name: str) -> None:
    for shard in ("shard_0", "value_stocks", name):
        parquet(tmp_path / f"{shard}.parquet", texts(20))
    held = {shard.name: shard.validation for shard in list_shards(DataConfig(source=str(tmp_path)))}
    assert held == {"shard_0": "none", "value_stocks": "none", name: "all"}


def test_a_shard_can_be_named_and_training_shards_limited(tmp_path: Path) -> None:
    for number in range(6):
        parquet(tmp_path / f"shard_{number}.parquet", texts(20))
    for wanted in ("shard_5", "shard_5.parquet"):
        shards = list_shards(DataConfig(source=str(tmp_path), validation_shard=wanted, train_shards=2))
        assert [(shard.name, shard.validation) for shard in shards] == [
            ("shard_0", "none"),
            ("shard_1", "none"),
            ("shard_5", "all"),
        ]
    with pytest.raises(BadSource, match=r"no shard `shard_9` to hold out; it has `shard_0`.* and 1 more"):
        list_shards(DataConfig(source=str(tmp_path), validation_shard="shard_9"))


def test_only_validation_is_not_enough(tmp_path: Path) -> None:
    """Also below a folder that all files have in common, which is not a part of their names."""
    parquet(tmp_path / "one/validation.parquet", texts(20))
    parquet(tmp_path / "two/data/val/a.parquet", texts(20))
    parquet(tmp_path / "two/data/val/b.parquet", texts(20))
    for folder, names in (("one", "`validation.parquet`"), ("two", "`data/val/a.parquet`, `data/val/b.parquet`")):
        with pytest.raises(BadSource, match=f"has only a validation split, {names}"):
            list_shards(DataConfig(source=str(tmp_path / folder)))


def test_what_the_source_names_itself_is_trained_on_whatever_it_is_called(tmp_path: Path) -> None:
    parquet(tmp_path / "val/validation.parquet", texts(20))
    parquet(tmp_path / "val/a.parquet", texts(20))
    shard = only(DataConfig(source=str(tmp_path / "val/validation.parquet")))
    assert (shard.name, shard.validation) == ("validation", "sample")
    (tmp_path / "val/validation.parquet").unlink()
    assert only(DataConfig(source=str(tmp_path / "val"))).validation == "sample"


def test_too_few_documents_for_a_sample(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", texts(9))
    with pytest.raises(BadSource, match="only 9 different documents"):
        written(only(DataConfig(source=str(tmp_path))), tmp_path)


# --- listing


def test_names_are_short_and_unique() -> None:
    assert shard_names(["data/a.parquet", "data/b.parquet"]) == ["a", "b"]
    assert shard_names(["x/a.jsonl.gz", "y/a.jsonl.gz"]) == ["x/a", "y/a"]
    assert shard_names(["a.jsonl", "a.ndjson", "b.jsonl"]) == ["a.jsonl", "a.ndjson", "b"]
    assert shard_names(["a.parquet", "sub/b.parquet"]) == ["a", "sub/b"]


def test_parquet_goes_before_json_before_text_and_hidden_files_are_left(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("free")
    (tmp_path / "a.jsonl").write_text("{}")
    assert [shard.name for shard in list_shards(DataConfig(source=str(tmp_path)))] == ["a"]
    parquet(tmp_path / "b.parquet", texts(20))
    parquet(tmp_path / ".cache/c.parquet", texts(20))
    assert [shard.name for shard in list_shards(DataConfig(source=str(tmp_path)))] == ["b"]


def test_a_delta_table_is_recognised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What its log has removed is still in its folder."""
    parquet(tmp_path / "part-0.parquet", texts(20))
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log/00000000000000000000.json").write_text("{}")
    only(DataConfig(source=str(tmp_path)))
    assert "is a Delta table: files that its log has removed are read too" in caplog.text


def test_a_relative_path_means_the_same(tmp_path: Path, monkeypatch) -> None:
    parquet(tmp_path / "data/a.parquet", texts(20))
    monkeypatch.chdir(tmp_path)
    same = [
        list_shards(DataConfig(source=source))
        for source in ("data", str(tmp_path / "data"), (tmp_path / "data").as_uri())
    ]
    assert same[0] == same[1] == same[2]


def test_a_rewritten_file_is_another_shard(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", texts(20))
    before = only(DataConfig(source=str(tmp_path)))
    parquet(tmp_path / "a.parquet", texts(21))
    assert only(DataConfig(source=str(tmp_path))) != before
    with pytest.raises(BadSource, match="changed since the run began"):
        written(before, tmp_path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", texts(3000))
    shard = only(DataConfig(source=str(path)))
    (tmp_path / "out").mkdir()

    def touch(done: float, total: float, unit: str, *_: object) -> None:
        os.utime(path, (done, done))

    with pytest.raises(BadSource, match=r"a\.parquet` changed while it was read"):
        write_shard(shard, tmp_path / "out", touch)


def test_addresses_of_this_machine_say_a_path_and_nothing_else(tmp_path: Path) -> None:
    parquet(tmp_path / "a#b?c%20 d/a.parquet", texts(20))
    for source in (str(tmp_path / "a#b?c%20 d"), (tmp_path / "a#b?c%20 d").as_uri()):
        assert len(list_shards(DataConfig(source=source))) == 1
    for source in (f"file://{tmp_path}/a#b", f"file://{tmp_path}/a?b", f"file://host{tmp_path}"):
        with pytest.raises(BadSource, match="is not the address of a folder of this machine"):
            list_shards(DataConfig(source=source))


def test_a_folder_is_held_to_its_sums(tmp_path: Path) -> None:
    """As `sha256sum *.parquet > SHA256SUMS` writes it."""
    path = parquet(tmp_path / "data/a.parquet", texts(100))
    sums = tmp_path / "data/SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()} *a.parquet\n")
    shard = only(DataConfig(source=str(tmp_path / "data")))
    assert shard.identity.startswith("sha256:")
    assert len(written(shard, tmp_path)[0]) == 90
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadSource, match=r"a\.parquet` is damaged: its SHA256"):
        written(shard, tmp_path)


# --- bad sources


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    for source, message in (
        (str(tmp_path / "nowhere"), "There is no file or folder"),
        (str(tmp_path), "has no data file"),
        ("gopher://bucket/prefix", "`gopher://` are unknown"),
        ("gs://bucket/prefix", "`gs://` need a package"),
        ("hf://nothing", "not the address of a dataset"),
        ("s3://bucket/a.parquet?versionId=1", "names a version"),
        ("https://[::1/a.parquet", "is not an address"),
        ("http://host:99999/a.parquet", "is not an address"),
        ("HTTPS://host/a.parquet", "`HTTPS://` is not a known kind"),
        ("file://[::1/a", "is not the address of a folder"),
        ("~no-such-user/data", "`~no-such-user` has no home folder"),
        ("x" * 5000, "cannot be listed: File name too long"),
    ):
        with pytest.raises(BadSource, match=message) as caught:
            list_shards(DataConfig(source=source))
        assert caught.value.hint
    with pytest.raises(BadSource) as caught:
        list_shards(DataConfig(source="karpathy/nothing-here"))
    assert "`hf://karpathy/nothing-here`" in caught.value.hint


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter2@host/a.parquet",
        "https://host/a.parquet?X-Amz-Signature=hunter2",
        "https://hunter2@host/a.parquet",
    ],
)
def test_an_address_with_a_credential_is_refused(address: str) -> None:
    """It would be written into every manifest."""
    with pytest.raises(BadSource, match="contains a credential") as caught:
        list_shards(DataConfig(source=address))
    assert "hunter2" not in str(caught.value)


def bad_file(tmp_path: Path, name: str, data: bytes, **fields) -> str:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadSource) as caught:
        written(only(DataConfig(source=str(tmp_path / name), **fields)), tmp_path)
    assert name in str(caught.value)
    return str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    good = parquet(tmp_path / "good.parquet", texts(100), column="content").read_bytes()
    assert "no column `text`; it has `id`, `content`" in bad_file(tmp_path, "a.parquet", good)
    assert "has the type int64, not text" in bad_file(tmp_path, "a.parquet", good, text_column="id")
    assert "damaged or truncated" in bad_file(tmp_path, "a.parquet", good[: len(good) // 2], text_column="content")
    assert "damaged or truncated" in bad_file(tmp_path, "a.parquet", b"PAR1" + good[: len(good) // 2])
    assert "is empty" in bad_file(tmp_path, "a.parquet", b"")
    assert "is empty" in bad_file(tmp_path, "a.jsonl", b"")
    assert "not UTF-8" in bad_file(tmp_path, "a.txt", "naïve".encode("latin-1"))
    assert "not UTF-8" in bad_file(tmp_path, "a.jsonl", b'{"text": "na\xefve"}\n')
    assert "line 2, is not JSON" in bad_file(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": \n')
    assert "not a JSON object" in bad_file(tmp_path, "a.jsonl", b"[1]\n")
    assert "surrogate" in bad_file(tmp_path, "a.jsonl", b'{"text": "\\ud800"}\n')
    assert "no field `text`; it has `body`" in bad_file(tmp_path, "a.jsonl", b'{"body": "a"}\n')
    assert "is not text" in bad_file(tmp_path, "a.jsonl", b'{"text": 3}\n')
    assert "no document with text" in bad_file(tmp_path, "a.jsonl", b'{"text": ""}\n')
    assert "has only white space" in bad_file(tmp_path, "a.txt", b"\n \n")
    assert "line 3, is not UTF-8" in bad_file(tmp_path, "a.txt", b"one\ntwo\nna\xefve\n" + b"four\n" * 10_000)
    assert "line 2, has a field `text` that is not" in bad_file(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": ["b"]}')
    assert "line 1, is not a JSON object" in bad_file(tmp_path, "a.jsonl", b'[{"text": "a"}]')
    assert "no field `meta.text`" in bad_file(tmp_path, "a.json", b'[{"meta": {"text": "a"}}]', text_column="meta.text")
    packed = gzip.compress(b'{"text": "a"}\n' * 1000)
    assert "damaged or truncated" in bad_file(tmp_path, "a.jsonl.gz", packed[: len(packed) // 2])
    assert "damaged or truncated" in bad_file(tmp_path, "a.jsonl.gz", b"no gzip at all")


def test_a_parquet_file_whose_strings_are_not_utf8(tmp_path: Path) -> None:
    bytes_array = pa.array([b"ok", "naïve".encode("latin-1")] * 20, pa.binary())
    strings = pa.StringArray.from_buffers(40, *bytes_array.buffers()[1:])
    pq.write_table(pa.table({"text": strings}), tmp_path / "a.parquet")
    with pytest.raises(BadSource, match=r"a\.parquet.*UTF-?8"):
        written(only(DataConfig(source=str(tmp_path / "a.parquet"))), tmp_path)


# --- the Hub


class FakeApi:
    """What we ask of the Hub, for a repository that is a folder here."""

    files: tuple[str, ...] = ()

    def dataset_info(self, repo, revision):
        assert repo == "org/name"
        return type("Info", (), {"sha": {None: "c0ffee", "v1": "decade"}[revision]})

    def list_repo_tree(self, repo, path_in_repo, recursive, repo_type, revision):
        assert (recursive, repo_type) == (True, "dataset")
        inside = [path for path in self.files if not path_in_repo or path.startswith(f"{path_in_repo}/")]
        return [hub.RepoFile(path=path, size=1, oid="b10b") for path in inside]


def test_a_dataset_without_such_files_is_streamed(tmp_path: Path, monkeypatch) -> None:
    """The stream itself is real: `datasets` reads the CSV files of a folder."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for number in range(2):
        lines = ["text,n", *(f"story {number} {line},1" for line in range(30))]
        (folder / f"train_{number}.csv").write_text("\n".join(lines))
    monkeypatch.setattr(FakeApi, "files", ("train_0.csv", "train_1.csv"))
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    import datasets

    real = datasets.load_dataset
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda repo, name=None, revision=None, **kw: real(str(folder), name, **kw)
    )
    shards = list_shards(DataConfig(source="hf://org/name"))
    assert [shard.name for shard in shards] == ["train-00000", "train-00001"]
    train, _, _ = written(shards[1], tmp_path)
    assert train == [f"story 1 {line}" for line in range(30)]
    train, _, _ = written(shards[0], tmp_path)
    assert len(train) == 27
    with pytest.raises(BadSource, match=r"`body`.* is missing; there are `text`, `n`"):
        written(shards[0].model_copy(update={"text_column": "body"}), tmp_path)
    with warnings.catch_warnings():  # `datasets` leaves the file of a stream that ends early to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_errors_of_the_hub_are_ours(monkeypatch) -> None:
    import httpx
    from huggingface_hub.errors import RepositoryNotFoundError

    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    response = httpx.Response(404, request=httpx.Request("GET", "https://example.invalid"))
    for error, kind in (
        (RepositoryNotFoundError("no", response=response), BadSource),
        (httpx.ConnectError("no network"), SourceUnreachable),
        (RuntimeError("Task error: File reconstruction error: CAS Client Error: error sending"), SourceUnreachable),
        (OSError("Consistency check failed: file should be of size 5 but has size 3"), SourceUnreachable),
    ):

        def fail(self, *args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(hub.HfApi, "dataset_info", fail)
        with pytest.raises(kind) as caught:
            list_shards(DataConfig(source="hf://org/name"))
        assert caught.value.hint
