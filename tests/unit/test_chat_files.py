"""Files of chat data: which are read, for which split, and how one that cannot be read is named."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.config.chat import ConversationsConfig, MixtureItem
from nanochat.config.data import DataConfig
from nanochat.data.file_hashes import with_file_hashes
from nanochat.errors import BadConfig, BadSource
from nanochat.sources.listing import list_files
from nanochat.tasks.fields import Counts
from nanochat.tasks.registry import load_task

HI, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
BOTH = {"messages": [HI, HELLO]}


def turn(kind, text):
    return {"from": kind, "value": text}


@pytest.mark.parametrize("ending", [".jsonl", ".JSONL", ".ndjson.gz", ".jsonl.zst", ".json.gz", ".json", ".parquet"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [HI, HELLO], "source": "here"},
        {"conversations": [turn("human", "Hi"), turn("gpt", "Hello!")]},
        {"instruction": "Hi", "input": "", "output": "Hello!", "history": []},
        {"prompt": "Hi", "completion": "Hello!"},
    ],
)
def test_every_form_is_read_from_every_kind_of_file(tmp_path, row, ending):
    file = tmp_path / f"own{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist([row, row]), file)
    else:
        text = (
            json.dumps([row, row]) if ending.startswith(".json") and "l" not in ending else 2 * f"{json.dumps(row)}\n"
        )
        with pa.output_stream(str(file), compression="detect") as lines:
            lines.write(text.encode())
    counts = Counts()
    task = load_task(MixtureItem(task="conversations", source=str(file)), 1, counts)
    assert list(task.conversations("train")) == [{"messages": [HI, HELLO]}]
    assert counts.other_split_rows == 1
    assert set(counts.ignored_fields) == row.keys() & {"source"}


def write(folder, **files):
    for name, count in files.items():
        file = folder / name.replace("__", "/").replace("_", ".", 1)
        file.parent.mkdir(exist_ok=True, parents=True)
        rows = ({"prompt": f"{file.name} {number}", "completion": "yes"} for number in range(count))
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prompts(folder, split):
    counts = Counts()
    task = load_task(MixtureItem(task="conversations", source=str(folder)), 1, counts)
    return [conversation["messages"][0]["content"] for conversation in task.conversations(split)], counts


def test_files_of_a_validation_split_are_the_validation_and_those_of_a_test_split_are_left_out(tmp_path):
    write(tmp_path, train_jsonl=12, validation_jsonl=3, test_jsonl=5)
    train, counts = prompts(tmp_path, "train")
    assert train == [f"train.jsonl {number}" for number in range(12)]
    assert counts.ignored_files == {"of a test split": 1}
    validation, _ = prompts(tmp_path, "validation")
    assert validation == [f"validation.jsonl {number}" for number in range(3)]


def test_without_files_of_a_validation_split_every_tenth_row_is_held_out(tmp_path):
    write(tmp_path, train_jsonl=12, test_jsonl=5)
    train, counts = prompts(tmp_path, "train")
    validation, _ = prompts(tmp_path, "validation")
    assert validation == ["train.jsonl 0", "train.jsonl 10"]
    assert sorted(train + validation) == sorted(f"train.jsonl {number}" for number in range(12))
    assert counts.other_split_rows == 2
    write(tmp_path, test_jsonl=5)
    assert len(prompts(tmp_path / "test.jsonl", "train")[0]) == 4


def test_a_row_may_say_that_it_is_of_the_split_of_its_file(tmp_path):
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({**BOTH, "split": name}))
    assert [len(prompts(tmp_path, split)[0]) for split in ("train", "validation")] == [1, 1]
    (tmp_path / "train.jsonl").write_text(json.dumps({**BOTH, "split": "validation"}))
    with pytest.raises(BadSource, match=r"train\.jsonl`, line 1, belongs to the split `validation`"):
        prompts(tmp_path, "train")


def test_a_folder_with_validation_files_alone_has_nothing_to_train_on(tmp_path):
    write(tmp_path, val_jsonl=12)
    with pytest.raises(BadSource, match="only files of a validation split"):
        prompts(tmp_path, "train")


def test_hidden_files_are_skipped_and_counted_and_subfolders_are_read(tmp_path):
    write(tmp_path, a_jsonl=2, sub__b_jsonl=2)
    (tmp_path / "._a.jsonl").write_bytes(b"\0\x05\x16\x07")
    (tmp_path / "README.md").write_text("Conversations.")
    train, counts = prompts(tmp_path, "train")
    assert train == ["a.jsonl 1", "b.jsonl 0", "b.jsonl 1"]
    assert counts.ignored_files == {"hidden": 1, "of another format": 1}


def test_a_line_that_is_not_a_conversation_is_named_with_file_and_number(tmp_path):
    file = tmp_path / "own.jsonl"
    for line, expected in (
        ("no json", "is not JSON"),
        ('{"n": ' + 5000 * "1" + "}", "is not a conversation"),
        (100_000 * "[" + 100_000 * "]", "nested too deep"),
        ('{"prompt": "Hi", "completion": "a", "completion": "b"}', "`completion` twice"),
    ):
        file.write_text(f"{json.dumps(BOTH)}\n\n{line}\n")
        with pytest.raises(BadSource, match=rf"own\.jsonl`, line 3, .*{expected}"):
            list(load_task(MixtureItem(task="conversations", source=str(file)), 1).conversations("train"))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (pa.table([["Hi"], ["Hi"], ["Hello!"]], ["prompt", "prompt", "completion"]), "two columns `prompt`"),
        (pa.table({"text": ["Hi"]}), "is not a conversation: it has `text`"),
        (pa.table({"id": [1, 2]}), "is not a conversation: it has `id`"),
        (pa.table({**{"prompt": ["Hi"], "completion": ["Hello!"]}, "image": [b"x"]}), "row 0, has the field `image`"),
        (
            pa.table({"prompt": ["Hi"], "completion": pa.array([b"\xff"]).view(pa.string())}),
            r"the field `completion`: it cannot be read .*Write the file again",
        ),
        (pa.table({"prompt": ["Hi"], "completion": [b"Hello!"]}), "row 0, has no text in `completion`"),
        (
            pa.table({"prompt": ["Hi"], "when": pa.array([1 << 60], pa.timestamp("ms"))}),
            "the field `when`: it cannot be read",
        ),
    ],
)
def test_a_column_that_cannot_be_honoured_is_refused(tmp_path, table, expected):
    pq.write_table(table, tmp_path / "own.parquet")
    with pytest.raises(BadSource, match=expected) as error:
        list(load_task(MixtureItem(task="conversations", source=str(tmp_path)), 1).conversations("validation"))
    assert "own.parquet" in str(error.value)


def test_a_column_that_is_ignored_is_not_read_but_counted(tmp_path):
    when = pa.array([1 << 60, 1 << 60], pa.timestamp("ms"))  # a time that Python cannot hold
    pq.write_table(pa.table({"prompt": 2 * ["Hi"], "completion": 2 * ["Hello!"], "when": when}), tmp_path / "a.parquet")
    counts = Counts()
    item = MixtureItem(task="conversations", source=str(tmp_path), ignore_fields=("when",))
    assert list(load_task(item, 1, counts).conversations("train")) == [BOTH]
    assert counts.ignored_fields == {"when": 2}


def test_columns_without_meaning_are_not_read_and_counted(tmp_path):
    table = pa.table(
        {"prompt": ["Hi", "Hi"], "completion": ["Hello!", "Hello!"], "created_at": pa.array([1, 2], pa.timestamp("ns"))}
    )
    pq.write_table(table, tmp_path / "own.parquet")
    found, counts = prompts(tmp_path, "train")
    assert found == ["Hi"]
    assert counts.ignored_fields == {"created_at": 2}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("own.parquet", b"<!DOCTYPE html><html></html>", "is an HTML or XML page, not a Parquet file"),
        ("own.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        ("own.parquet", b"prompt,completion\nHi,Hello!\n", "is a file of another format, not a Parquet file"),
        ("own.parquet", b'{"prompt": "Hi"}', "is JSON, not a Parquet file"),
        ("own.parquet", b"PAR1 and no more", "damaged or truncated"),
        ("own.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        ("own.jsonl", b"", "is empty"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadSource, match=expected) as error:
        prompts(tmp_path, "train")
    assert name in str(error.value)


@pytest.mark.parametrize("source", ["https://host/own.jsonl", "s3://bucket/own", "ftp://host/own.jsonl"])
def test_an_address_that_is_not_read_is_refused(source):
    with pytest.raises(BadSource, match=f"cannot read the address `{source}`"):
        prompts(source, "train")


def test_a_file_address_is_the_file(tmp_path):
    (tmp_path / "my own").mkdir()
    write(tmp_path / "my own", train_jsonl=3)
    address = (tmp_path / "my own").as_uri()
    assert prompts(address, "train")[0] == ["train.jsonl 1", "train.jsonl 2"]
    items = ConversationsConfig(train=(MixtureItem(task="conversations", source=address),))
    assert with_file_hashes(items).train[0].sha256
    with pytest.raises(BadSource, match="is not the address of a folder of this machine"):
        prompts(f"{address}?split=train", "train")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf://org/name@main/data", "names the folder `data` of a dataset, which is read as a whole"),
        ("hf://datasets/org/name/data", "names the folder `data`"),
        ("hf://org", "is not the address of a dataset"),
        ("org/name", "There is no file or folder `org/name`.* `hf://org/name`"),
    ],
)
def test_an_address_of_the_hub_is_read_whole_or_refused(source, expected):
    with pytest.raises(BadSource, match=expected):
        prompts(source, "train")


def test_the_home_of_an_unknown_user_is_refused_in_every_source():
    place = "~no-such-user/own.jsonl"
    with pytest.raises(BadSource, match="`~no-such-user` has no home folder"):
        prompts(place, "train")
    with pytest.raises(BadSource, match="no home folder"):
        with_file_hashes(ConversationsConfig(train=(MixtureItem(task="conversations", source=place),)))
    with pytest.raises(BadSource, match="no home folder"):
        list(load_task(MixtureItem(task="gsm8k", source=place), 1).conversations("train"))
    with pytest.raises(BadSource, match="no home folder"):
        list_files(DataConfig(source=place))


def test_a_file_of_another_format_is_refused_with_the_formats_of_chat_data(tmp_path):
    (tmp_path / "own.csv").write_text("prompt,completion\nHi,Hello!\n")
    with pytest.raises(BadSource, match="is not a data file") as error:
        prompts(tmp_path / "own.csv", "train")
    assert ".jsonl" in error.value.hint and ".txt" not in error.value.hint


def test_own_conversations_need_a_source(tmp_path):
    with pytest.raises(BadConfig, match="needs a `source`"):
        load_task(MixtureItem(task="conversations"), seed=1)
    with pytest.raises(BadSource, match="no data file"):
        prompts(tmp_path, "train")
    with pytest.raises(BadSource, match="There is no file or folder"):
        prompts(tmp_path / "nowhere", "train")


@pytest.mark.parametrize("task", ["identity", "world", "spelling"])
def test_a_source_is_refused_where_it_would_not_be_read(task):
    with pytest.raises(BadConfig, match=f"`{task}` is generated and reads no `source`"):
        load_task(MixtureItem(task=task, source="identity.jsonl"), 1)
