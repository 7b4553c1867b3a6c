"""Conversations to rows: none split, none lost, padding never a target, and the order a function of the seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nanochat.config.chat import ConversationsConfig, MixtureItem
from nanochat.data.conversation_rows import write_conversation_rows
from nanochat.data.file_hashes import with_file_hashes
from nanochat.data.mixture import questions_of, render_mixture, times_seen
from nanochat.data.row_index import open_rows
from nanochat.errors import BadConfig, BadSource
from nanochat.events import silent
from nanochat.report.data_card import conversation_facts, table
from nanochat.stages.conversations import converse
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.world.documents import documents
from tests.rows import every, index_folder

BOS = 291
TOKENIZER = SimpleNamespace(dtype=np.dtype(np.uint16), bos=BOS)


def render_bytes(_, conversation, max_tokens):
    """A stand-in for the chat format: BOS, the bytes of every message, 1 for the assistant's."""
    ids, mask = [BOS], [0]
    for message in conversation["messages"]:
        text = message["content"].encode()
        ids += text
        mask += [int(message["role"] == "assistant")] * len(text)
    return ids[:max_tokens], mask[:max_tokens]


@pytest.fixture(autouse=True)
def bytes_for_tokens(monkeypatch):
    monkeypatch.setattr("nanochat.data.mixture.render", render_bytes)


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.jsonl"
    with file.open("w") as lines:
        for number in range(60):
            user, assistant = f"question {number} " * (1 + number % 3), f"answer {number}"
            messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
            lines.write(json.dumps({"messages": messages}) + "\n")
    return MixtureItem(task="conversations", source=str(file))


def rows_of(folder, items, row_tokens=101, seed=1):
    rendered = render_mixture(items, "train", TOKENIZER, row_tokens, 1, silent)
    count = write_conversation_rows(rendered, folder, "train", row_tokens, BOS, seed)
    rows = open_rows(index_folder(folder, row_tokens, "uint16", {"train": count}, masked=True), "train")
    return rendered, *every(rows)


@pytest.mark.parametrize("row_tokens", [64, 101, 257])
def test_every_conversation_is_in_one_row_whole(tmp_path, own, row_tokens):
    rendered, rows, _ = rows_of(tmp_path, [own], row_tokens)
    wanted = Counter(rendered.ids[begin:end].tobytes() for begin, end in pairwise(rendered.offsets))
    found = Counter()
    for row in rows:
        starts = [*np.flatnonzero(row == BOS), len(row)]
        found.update(row[begin:end].tobytes() for begin, end in pairwise(starts) if end - begin > 1)
    assert found == wanted


def test_padding_is_bos_and_never_a_target_and_no_row_is_all_padding(tmp_path, own):
    rendered, rows, masks = rows_of(tmp_path, [own])
    assert rows.dtype == np.uint16
    assert masks.sum() == rendered.trained_tokens > 0
    assert not masks[rows == BOS].any()
    assert masks.any(axis=1).all()


def test_repeats_and_limits(tmp_path, own):
    twice = own.model_copy(update={"repeats": 2})
    few = own.model_copy(update={"limit": 7})
    rendered, _, masks = rows_of(tmp_path, [twice, few])
    assert rendered.repeats.tolist() == [2] * 54 + [1] * 7
    assert masks.sum() == rendered.trained_tokens
    assert rendered.seen_tokens > rendered.trained_tokens


def test_epochs_may_be_broken(own):
    items = [own.model_copy(update={"repeats": 0.5}), own.model_copy(update={"repeats": 2.25})]
    times = times_seen(items, [54, 100], 1)
    assert (times[:54].sum(), times[54:].sum()) == (27, 225)
    assert (set(times[:54]), set(times[54:])) == ({0, 1}, {2, 3})
    assert (times == times_seen(items, [54, 100], 1)).all() and (times != times_seen(items, [54, 100], 2)).any()


def test_weights_are_shares_and_what_runs_out_first_sets_the_size(own):
    items = [own.model_copy(update={"weight": weight}) for weight in (3.0, 1.0)]
    times = times_seen(items, [300, 1000], 1)
    assert (times[:300].sum(), times[300:].sum()) == (300, 100)
    items[0] = items[0].model_copy(update={"repeats": 2})
    times = times_seen(items, [300, 1000], 1)
    assert (times[:300].sum(), times[300:].sum()) == (600, 200)
    with pytest.raises(BadConfig, match="others have none"):
        times_seen([*items, own], [300, 1000, 5], 1)


def test_the_order_is_a_function_of_the_seed(tmp_path, own):
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        folder.mkdir()
        rows_of(folder, [own], seed=seed)
    first, same, other = (folder.joinpath("train-00000.parquet").read_bytes() for folder in folders)
    assert first == same != other


def test_long_conversations_are_cut_and_those_with_nothing_to_learn_are_left_out_and_all_are_counted(own, caplog):
    rendered = render_mixture([own], "train", TOKENIZER, 30, 1, silent)
    beyond = rendered.counts.skipped["answer_beyond_row"]
    assert beyond > 0
    assert beyond + len(rendered) == 54
    assert rendered.counts.other_split_rows == 6
    assert np.diff(rendered.offsets).max() == 30
    whole = render_mixture([own], "train", TOKENIZER, 1000, 1, silent)
    assert whole.truncated == 0 and not whole.counts.skipped
    assert rendered.truncated == int((np.diff(whole.offsets) > 30).sum()) - beyond > 0
    assert f"{beyond} skipped (answer beyond row {beyond}); {rendered.truncated} truncated" in caplog.text


def test_when_all_conversations_are_longer_than_the_row_the_field_to_raise_is_named(own):
    with pytest.raises(BadSource, match=r"in 54 of 54, .* begins after the end of a row of 8 tokens") as error:
        render_mixture([own], "train", TOKENIZER, 8, 1, silent)
    found = re.search(r"Raise `conversations\.sequence_len` to at least (\d+)", str(error.value))
    assert found
    row_tokens = int(found[1]) + 1
    assert len(render_mixture([own], "train", TOKENIZER, row_tokens, 1, silent)) > 0
    with pytest.raises(BadSource, match="at least"):
        render_mixture([own], "train", TOKENIZER, row_tokens - 1, 1, silent)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            [{"prompt": "Hi", "completion": " "}] * 3,
            r"nothing to train on .*2 skipped \(empty answer 2, the first .*own\.jsonl`, line 2\)",
        ),
        (
            [[{"role": "assistant", "content": "Hi"}]] * 3,
            "2 skipped .roles out of turn 2, .* take turns; the user begins",
        ),
        ([{"data": [{"prompt": "Hi", "completion": "Hello"}]}], "line 1, is not a conversation: it has `data`"),
        ([{"prompt": "Hi", "completion": "Hello"}], "no conversation for .* Every tenth row"),
    ],
)
def test_a_source_with_nothing_to_learn_is_refused_with_the_reason(tmp_path, lines, reason):
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BadSource, match=reason):
        render_mixture([MixtureItem(task="conversations", source=str(file))], "train", TOKENIZER, 99, 1, silent)


def test_rows_are_well_filled_over_blocks(tmp_path, own, monkeypatch):
    monkeypatch.setattr("nanochat.data.conversation_rows.BLOCK_ROWS", 3)
    rendered, rows, _ = rows_of(tmp_path, [own])
    assert len(rows) > 6
    assert rendered.seen_tokens > 0.85 * rows.size


def test_the_stage_with_a_real_vocabulary(tmp_path, monkeypatch):
    monkeypatch.undo()  # the real chat format
    tokenizer = Tokenizer.train_from_iterator(documents(1, 0, 300), 600)
    vocabulary, out = tmp_path / "vocabulary", tmp_path / "out"
    for folder in (vocabulary, out):
        folder.mkdir()
    tokenizer.save(vocabulary / "vocabulary.json")
    config = ConversationsConfig(
        train=(MixtureItem(limit=300), MixtureItem(task="spelling", limit=20, repeats=2)),
        validation=(MixtureItem(limit=40),),
        questions=(MixtureItem(limit=10),),
        sequence_len=128,
    )
    context = SimpleNamespace(progress=silent)
    metrics = converse.function(config, SimpleNamespace(path=vocabulary), out=out, context=context)
    assert metrics["train_conversations"] == 340 - metrics["train_skipped"]
    assert metrics["train_skipped"] == metrics.get("train_skipped_answer_beyond_row", 0)
    assert metrics["questions"] == 10
    assert 0 < metrics["train_learnt_share"] < 1  # plain-words: ok
    assert f"| conversations | {metrics['train_conversations']:,}, " in "\n".join(table(conversation_facts(metrics)))
    counts = {split: metrics[f"{split}_rows"] for split in ("train", "validation")}
    rows, masks = every(open_rows(index_folder(out, 129, metrics["dtype"], counts, masked=True), "train"))
    assert (rows[:, 0] == tokenizer.bos).all()
    trained = tokenizer.decode(rows[0][masks[0] == 1].tolist())
    assert "<|assistant_end|>" in trained
    assert "<|user_start|>" not in trained
    lines = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    assert {line["task"] for line in lines} == {"world_choice"}


def test_what_is_left_out_is_in_the_metrics_and_the_card_of_the_conversations(tmp_path, monkeypatch):
    monkeypatch.undo()
    vocabulary, out, source = tmp_path / "vocabulary", tmp_path / "out", tmp_path / "own"
    for folder in (vocabulary, out, source):
        folder.mkdir()
    Tokenizer.from_merges([]).save(vocabulary / "vocabulary.json")
    answers = ["", "no", "n" * 99]
    rows = [{"prompt": "Hi", "completion": answers[number % 3], "id": number} for number in range(30)]
    (source / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (source / "._own.jsonl").write_bytes(b"\0\5")
    config = ConversationsConfig(train=(MixtureItem(task="conversations", source=str(source)),), sequence_len=32)
    context = SimpleNamespace(progress=silent)
    metrics = converse.function(config, SimpleNamespace(path=vocabulary), out=out, context=context)
    wanted = {
        "conversations": 18, "skipped": 9, "skipped_empty_answer": 9, "cut": 9, "other_split_rows": 3,
        "ignored_files": 1, "ignored_fields": "id 27",
    }  # fmt: skip
    assert {name: metrics[f"train_{name}"] for name in wanted} == wanted
    card = "\n".join(table(conversation_facts(metrics)))
    for line in (
        "skipped | 9 (empty answer 9)",
        "cut at the end of a row | 9",
        "fields ignored | id 27",
        "files ignored | 1",
    ):
        assert f"| conversations: {line} |" in card


def test_questions_are_limited_and_each_item_must_have_some():
    questions = list(questions_of([MixtureItem(limit=5), MixtureItem(task="spelling", limit=2)], 1))
    assert [question["task"] for question in questions] == ["world_choice"] * 5 + ["spelling"] * 2
    with pytest.raises(BadConfig, match="`identity`, which has no questions"):
        list(questions_of([MixtureItem(limit=1), MixtureItem(task="identity")], 1))


@pytest.mark.parametrize("share", [{"repeats": 2}, {"weight": 1.0}])
def test_a_share_of_the_questions_is_refused_and_not_ignored(share):
    with pytest.raises(BadConfig, match="each question is used once"):
        list(questions_of([MixtureItem(**share)], 1))


def test_a_changed_file_of_yours_is_another_source(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"prompt": "Hi", "completion": "Hello!"}\n')
    config = ConversationsConfig(train=(MixtureItem(task="conversations", source=str(mine)), MixtureItem()))
    before = with_file_hashes(config)
    assert [bool(item.sha256) for item in before.train] == [True, False]
    assert with_file_hashes(config) == before == with_file_hashes(before)
    mine.write_text('{"prompt": "Hi", "completion": "Good day!"}\n')
    assert with_file_hashes(config) != before
    assert (
        with_file_hashes(ConversationsConfig(train=(MixtureItem(source=str(tmp_path / "none")),))).train[0].sha256 == ""
    )
    assert with_file_hashes(ConversationsConfig(train=(MixtureItem(source=str(tmp_path)),))).train[0].sha256 != ""


def test_what_is_read_decides_whether_a_folder_of_yours_is_another_source(tmp_path: Path) -> None:
    elsewhere, mine = tmp_path / "elsewhere", tmp_path / "mine"
    for folder in (elsewhere, mine):
        folder.mkdir()
        (folder / "a.jsonl").write_text('{"prompt": "Hi", "completion": "Hello!"}\n')
    (mine / "linked").symlink_to(elsewhere)
    (mine / "up").symlink_to(tmp_path)
    for task in ("conversations", "gsm8k"):
        config = ConversationsConfig(train=(MixtureItem(task=task, source=str(mine)),))
        before = with_file_hashes(config)
        (elsewhere / "a.jsonl").write_text(json.dumps({"prompt": "Hi", "completion": f"Good day, {task}!"}))
        assert with_file_hashes(config) != before
    config = ConversationsConfig(train=(MixtureItem(task="conversations", source=str(mine)),))
    before = with_file_hashes(config)
    (mine / ".DS_Store").write_text("anything")
    assert with_file_hashes(config) == before


def test_a_source_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "main").mkdir()

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refused)
    for task in ("conversations", "gsm8k"):
        with pytest.raises(BadSource, match="Permission denied"):
            with_file_hashes(ConversationsConfig(train=(MixtureItem(task=task, source=str(tmp_path)),)))


def test_a_source_is_checked_against_the_sum_of_the_item(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"prompt": "Hi", "completion": "Hello!"}\n')
    plain = hashlib.sha256(mine.read_bytes()).hexdigest()
    config = ConversationsConfig(train=(MixtureItem(task="conversations", source=str(mine), sha256=plain),))
    assert with_file_hashes(config) == config
    before = with_file_hashes(ConversationsConfig(train=(MixtureItem(task="conversations", source=str(mine)),)))
    mine.write_text('{"prompt": "Hi", "completion": "Good day!"}\n')
    for expected in (config, before):
        with pytest.raises(BadSource, match=r"mine\.jsonl` does not match the item's `sha256`"):
            with_file_hashes(expected)
