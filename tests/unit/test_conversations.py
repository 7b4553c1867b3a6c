"""Conversations to rows: none split, none lost, padding never learnt, and the order a function of the seed."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from nanochat.config import MixtureItem
from nanochat.data import conversations as made
from nanochat.data.conversations import plan_rows, questions_of, render_mixture, write_rows
from nanochat.data.rows import open_masked_rows
from nanochat.errors import BadConfig, BadSource
from nanochat.progress import silent

BOS = 291
TOKENIZER = SimpleNamespace(vocab_size=300, bos=BOS)


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
    monkeypatch.setattr(made, "render", render_bytes)


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
    count = write_rows(rendered, folder / "train.parquet", row_tokens, BOS, seed)
    files = open_masked_rows(folder, "train")
    assert len(files) == count
    return rendered, *files.take(np.arange(count))


@pytest.mark.parametrize("row_tokens", [64, 101, 257])
def test_every_conversation_is_in_one_row_whole(tmp_path, own, row_tokens):
    rendered, rows, _ = rows_of(tmp_path, [own], row_tokens)
    wanted = Counter(rendered.ids[begin:end].tobytes() for begin, end in pairwise(rendered.offsets))
    found = Counter()
    for row in rows:
        starts = [*np.flatnonzero(row == BOS), len(row)]
        found.update(row[begin:end].tobytes() for begin, end in pairwise(starts) if end - begin > 1)
    assert found == wanted


def test_padding_is_bos_and_never_learnt_and_no_row_is_all_padding(tmp_path, own):
    rendered, rows, masks = rows_of(tmp_path, [own])
    assert rows.dtype == np.uint16
    assert masks.sum() == rendered.learnt_tokens > 0
    assert not masks[rows == BOS].any()
    assert masks.any(axis=1).all()


def test_repeats_and_limits(tmp_path, own):
    twice = own.model_copy(update={"repeats": 2})
    few = own.model_copy(update={"limit": 7})
    rendered, _, masks = rows_of(tmp_path, [twice, few])
    assert rendered.repeats.tolist() == [2] * 54 + [1] * 7
    assert masks.sum() == rendered.learnt_tokens
    assert rendered.seen_tokens > rendered.learnt_tokens


def test_the_order_is_a_function_of_the_seed(tmp_path, own):
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        folder.mkdir()
        rows_of(folder, [own], seed=seed)
    first, same, other = (folder.joinpath("train.parquet").read_bytes() for folder in folders)
    assert first == same != other


def test_long_conversations_are_cut_and_those_with_nothing_to_learn_are_left_out(own):
    rendered = render_mixture([own], "train", TOKENIZER, 30, 1, silent)
    assert rendered.skipped > 0
    assert rendered.skipped + len(rendered) == 54
    assert np.diff(rendered.offsets).max() == 30


def test_a_source_with_nothing_to_learn_is_refused(own):
    with pytest.raises(BadSource, match=r"`conversations` has no conversation for `conversations\.train`"):
        render_mixture([own], "train", TOKENIZER, 8, 1, silent)


@pytest.mark.parametrize("seed", range(5))
def test_plans_place_all_once_and_fill_well(seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 65, 500).tolist()
    rows = plan_rows(lengths, 64)
    assert sorted(index for row in rows for index in row) == list(range(500))
    used = [sum(lengths[index] for index in row) for row in rows]
    assert max(used) <= 64
    assert sum(used) > 0.9 * 64 * len(rows)


def test_plans_of_nothing_and_of_one():
    assert plan_rows([], 8) == []
    assert plan_rows([8], 8) == [[0]]


def test_questions_are_limited_and_must_be_some():
    questions = list(questions_of([MixtureItem(limit=5), MixtureItem(task="spelling", limit=2)], 1))
    assert [question["task"] for question in questions] == ["world_choice"] * 5 + ["spelling"] * 2
    with pytest.raises(BadConfig, match="nobody can be examined"):
        list(questions_of([MixtureItem(task="smoltalk")], 1))
