"""Tasks: what they teach, what they ask, who judges, and errors about sources that cannot be read."""

from __future__ import annotations

import json
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.config.chat import MixtureItem
from nanochat.errors import BadSource
from nanochat.tasks.chat_rows import conversation_of
from nanochat.tasks.fields import Counts, FieldRules
from nanochat.tasks.gsm8k import with_tool
from nanochat.tasks.registry import judge_all, load_task

RULES = FieldRules(Counts())
GOOD = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]}


def hub_folder(root, configuration, split, rows):
    folder = root / (configuration or "data")
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    return str(root)


def test_the_world_has_facts_and_questions():
    task = load_task(MixtureItem(task="world"), seed=1)
    conversations = list(islice(task.conversations("train"), 100))
    assert all(conversation_of(conversation, "here", RULES) == conversation for conversation in conversations)
    questions = list(task.questions())
    assert {question["task"] for question in questions} == {"world_choice", "world_letter", "world_answer"}
    assert questions == list(load_task(MixtureItem(task="world"), seed=2).questions())
    full, letter = (
        next(question for question in questions if question["task"] == task)
        for task in ("world_choice", "world_letter")
    )
    assert letter["letters"] == ["A", "B", "C", "D"]
    assert len(set(full["letters"])) == 4
    for question in (full, letter):
        assert question["baseline"] == 0.25
        assert question["answer"] in question["letters"]


def test_the_limit_sets_how_many_conversations_the_world_makes():
    assert sum(1 for _ in load_task(MixtureItem(task="world", limit=12), 1).conversations("train")) == 12


def judged(task, question, reference, completion):
    messages = [{"role": "user", "content": question}]
    [verdict] = judge_all([({"task": task, "messages": messages, "answer": reference}, completion)])
    return verdict


@pytest.mark.parametrize(
    ("task", "question", "reference", "completion", "right"),
    [
        ("world_answer", "Where does Mira live?", "Reedham", "Mira lives in Reedham.", True),
        ("world_answer", "Where does Mira live?", "Reedham", "Mira lives in Oakend.", False),
        ("world_answer", "Where does Mira live?", "Reedham", "Oakend or Reedham.", False),
        ("world_answer", "Where does Mira live?", "Reedham", "", False),
        ("world_answer", "Who is the brother of Cora?", "Otto", "Otto is the brother of Cora.", True),
        ("world_answer", "What is 7 plus 5?", "12", "7+5127 plus 5 is 12.", True),
        ("world_answer", "What is 7 plus 5?", "12", "7 plus 5 is 13.", False),
        ("spelling", "Spell goat.", "g-o-a-t", "goat is spelled g-o-a-t.", True),
        ("spelling", "Spell goat.", "g-o-a-t", "goat is spelled g-o-a-t-s.", False),
        ("spelling", "How many letters e are in cheese?", "3", "The letter e is in cheese 3 times.", True),
        ("gsm8k", "?", "1200", "So it is 1,200.\n#### 1,200", True),
        ("gsm8k", "?", "1200", "So it is 1200.", False),
        ("gsm8k", "?", "12", "#### 13.", False),
    ],
)
def test_judges(task, question, reference, completion, right):
    assert judged(task, question, reference, completion).right is right


def test_spelling_evaluates_words_that_were_not_trained_on():
    task = load_task(MixtureItem(task="spelling"), seed=1)
    taught = {conversation["messages"][0]["content"] for conversation in task.conversations("train")}
    questions = [question["messages"][0]["content"] for question in task.questions()]
    assert len(questions) > 10
    assert not taught & set(questions)


def test_gsm8k_sums_become_calls_of_the_tool(tmp_path):
    row = {"question": "How many?", "answer": "He has 48/2 = <<48/2=24>>24 left.\n#### 24"}
    hub_folder(tmp_path / "gsm8k", "main", "train", [row])
    source = hub_folder(tmp_path / "gsm8k", "main", "test", [row])
    task = load_task(MixtureItem(task="gsm8k", source=source), seed=1)
    [conversation] = task.conversations("train")
    assert conversation["messages"][1]["content"] == [
        {"type": "text", "text": "He has 48/2 = "},
        {"type": "python", "text": "48/2"},
        {"type": "python_output", "text": "24"},
        {"type": "text", "text": "24 left.\n#### 24"},
    ]
    [question] = task.questions()
    assert question["answer"] == "24"
    assert "".join(part["text"] for part in with_tool("no sums")) == "no sums"


def test_arc_uses_the_labels_of_its_rows(tmp_path):
    choices = {"text": ["sun", "moon", "sea"], "label": ["1", "2", "3"]}
    row = {"id": "x", "question": "Which shines by day?", "choices": choices, "answerKey": "1"}
    source = hub_folder(tmp_path / "arc", "ARC-Easy", "test", [row])
    [question] = load_task(MixtureItem(task="arc_easy", source=source), seed=1).questions()
    assert (question["task"], question["id"]) == ("arc_easy", "x")
    assert question["answer"] == "1"
    assert question["letters"] == ["1", "2", "3"]
    assert question["messages"][0]["content"] == (
        "Multiple Choice question: Which shines by day?\n- sun=1\n- moon=2\n- sea=3\n\n"
        "Respond only with the letter of the correct answer."
    )


def test_mmlu_reads_both_of_its_layouts(tmp_path):
    row = {"question": "2 + 2?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": 3}
    hub_folder(tmp_path / "mmlu", "all", "auxiliary_train", [{"train": row}])
    source = hub_folder(tmp_path / "mmlu", "all", "test", [row])
    task = load_task(MixtureItem(task="mmlu", source=source), seed=1)
    [conversation], [question] = task.conversations("train"), task.questions()
    assert conversation["messages"][1]["content"] == question["answer"] == "D"


ARC = {"question": "?", "choices": {"text": ["sun", "sea"], "label": ["A", "B"]}, "answerKey": "A"}
MMLU = {"question": "?", "choices": ["1", "2", "3", "4"], "answer": 3}
GSM8K = {"question": "?", "answer": "#### 1"}


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        ("arc_easy", {**ARC, "answerKey": "C"}, "the answer `C`, which is not one of its choices"),
        ("arc_easy", {**ARC, "answerKey": ""}, "the answer ``"),
        ("arc_easy", {**ARC, "answerKey": None}, "no `answerKey`"),
        ("arc_easy", {**ARC, "choices": {"text": ["sun"], "label": ["A"]}}, "1 choices; it should have two to five"),
        ("arc_easy", {**ARC, "choices": {"text": ["sun", "sea"], "label": ["A"]}}, "lists `label` and `text`"),
        ("arc_easy", {**ARC, "choices": {"text": ["sun", "sea"]}}, "lists `label` and `text`"),
        ("arc_easy", {**ARC, "choices": {"text": ["sun", "sea"], "label": ["A", "A"]}}, "labels"),
        ("arc_easy", {**ARC, "choices": {"text": ["sun", "sea"], "label": ["A", ""]}}, "labels"),
        ("arc_easy", {**ARC, "choices": {"text": ["sun", None], "label": ["A", "B"]}}, "no text in `choices.text`"),
        ("arc_easy", {**ARC, "choices": {"text": ["sun", "sea"], "label": ["A", None]}}, "no text in `choices.label`"),
        ("arc_easy", {**ARC, "choices": ["sun", "sea"]}, "lists `label` and `text`"),
        ("arc_easy", {**ARC, "question": 3}, "no text in `question`"),
        ("mmlu", {**MMLU, "answer": 4}, "the answer `4`, which is not the number of a choice"),
        ("mmlu", {**MMLU, "answer": -1}, "the answer `-1`"),
        ("mmlu", {**MMLU, "answer": "D"}, "the answer `D`"),
        ("mmlu", {**MMLU, "answer": True}, "the answer `True`"),
        ("mmlu", {**MMLU, "choices": ["1", "2"]}, "a list of four texts in `choices`"),
        ("mmlu", {**MMLU, "choices": "1234"}, "a list of four texts in `choices`"),
        ("mmlu", {**MMLU, "choices": ["1", "2", "3", None]}, "no text in `choices`"),
        ("mmlu", {"question": "?", "choices": ["1", "2", "3", "4"]}, "no `answer`"),
        ("gsm8k", {**GSM8K, "answer": 3}, "no text in `answer`"),
        ("gsm8k", {**GSM8K, "question": None}, "no `question`"),
        ("gsm8k", {**GSM8K, "answer": "one"}, "no answer after `####`"),
        ("gsm8k", {**GSM8K, "answer": "#### 5/2"}, "no answer after `####`"),
        ("smoltalk", {"messages": [{"role": "user", "text": "Hi"}]}, "message 0 of `messages` has the field `text`"),
        ("smoltalk", {**GOOD, "tools": "[{}]"}, "`tools`"),
    ],
)  # fmt: skip
def test_a_row_of_a_dataset_that_cannot_be_used_is_refused_with_its_place(tmp_path, task, row, expected):
    configuration = {"arc_easy": "ARC-Easy", "mmlu": "all", "gsm8k": "main", "smoltalk": ""}[task]
    split = "train" if task == "smoltalk" else "test"
    source = hub_folder(tmp_path, configuration, split, [row])
    loaded = load_task(MixtureItem(task=task, source=source), 1)
    with pytest.raises(BadSource, match=expected) as error:
        list(loaded.conversations("train") if task == "smoltalk" else loaded.questions())
    assert "row 0" in str(error.value)


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        ("arc_easy", [ARC, {**ARC, "question": " "}]),
        ("mmlu", [MMLU, {**MMLU, "question": ""}]),
        ("gsm8k", [GSM8K, {**GSM8K, "question": ""}]),
    ],
)
def test_a_question_without_text_is_skipped_and_counted(tmp_path, task, rows):
    source = hub_folder(tmp_path, {"arc_easy": "ARC-Easy", "mmlu": "all", "gsm8k": "main"}[task], "test", rows)
    counts = Counts()
    assert len(list(load_task(MixtureItem(task=task, source=source), 1, counts).questions())) == 1
    assert counts.skipped == {"empty_question": 1}


def test_smoltalk_checks_its_rows(tmp_path):
    out_of_turn = {"messages": [{"role": "assistant", "content": "Good day"}]}
    bad = {"messages": [{"role": "robot", "content": "Good day"}]}
    source = hub_folder(tmp_path / "talk", "", "train", [GOOD, out_of_turn, bad])
    counts = Counts()
    conversations = load_task(MixtureItem(task="smoltalk", source=source), 1, counts).conversations("train")
    assert next(conversations) == GOOD
    with pytest.raises(BadSource, match="row 2"):
        next(conversations)
    assert counts.skipped == {"roles_out_of_turn": 1}


def test_a_split_that_is_not_there_is_one_sentence(tmp_path):
    row = {"question": "?", "answer": "#### 1"}
    source = hub_folder(tmp_path / "gsm8k", "main", "train", [row])
    with pytest.raises(BadSource, match=r"main/test-\*.parquet"):
        list(load_task(MixtureItem(task="gsm8k", source=source), seed=1).questions())
    with pytest.raises(BadSource, match="nothing here"):
        list(load_task(MixtureItem(task="gsm8k", source=str(tmp_path / "nothing here")), seed=1).questions())


def test_a_missing_field_is_named(tmp_path):
    source = hub_folder(tmp_path / "gsm8k", "main", "train", [{"question": "?", "solution": "1"}])
    with pytest.raises(BadSource, match=r"row 0, has no `answer` \(it has `question`, `solution`\)"):
        list(load_task(MixtureItem(task="gsm8k", source=source), seed=1).conversations("train"))


def test_own_conversations_hold_out_every_tenth_row(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "yes"}]} for n in range(25)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:13]))
    pq.write_table(pa.Table.from_pylist(rows[13:]), tmp_path / "b.parquet")
    task = load_task(MixtureItem(task="conversations", source=str(tmp_path)), seed=1)
    train, validation = (
        [conversation["messages"][0]["content"] for conversation in task.conversations(split)]
        for split in ("train", "validation")
    )
    assert validation == ["0", "10", "20"]
    assert sorted(train + validation, key=int) == [str(n) for n in range(25)]


def test_the_model_is_evaluated_on_its_identity():
    task = load_task(MixtureItem(task="identity"), seed=1)
    train, held_out = list(task.conversations("train")), list(task.conversations("validation"))
    assert (len(train), len(held_out)) == (1000, 50)
    assert all(conversation_of(conversation, "here", RULES) == conversation for conversation in train)
    assert len({json.dumps(conversation) for conversation in train}) > 900
    assert sum("nanochat" in json.dumps(conversation) for conversation in train) > 300
    assert list(task.questions()) == []
