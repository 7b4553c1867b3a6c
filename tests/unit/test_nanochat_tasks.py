"""Tasks that other programs have as well: nanochat's prompts and order, and the letters of a word."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.config.chat import MixtureItem
from nanochat.data.mixture import write_questions
from nanochat.errors import BadSource
from nanochat.evaluation.chat import read_questions
from nanochat.evaluation.chat_scores import forms_of
from nanochat.tasks.registry import judge_all, load_task
from nanochat.tasks.spelling_bee import PHRASINGS
from nanochat.tools.calculator import calculate

ARC = {"question": "?", "choices": {"text": ["sun", "sea"], "label": ["A", "B"]}, "answerKey": "A"}
MMLU = {"question": "?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": 3}
GSM8K = {"question": "?", "answer": "#### 1"}


def hub_folder(root: Path, configuration: str, split: str, rows: list[dict[str, Any]]) -> str:
    folder = root / configuration
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    return str(root)


@pytest.mark.parametrize(
    ("task", "configuration", "row"),
    [
        ("arc_easy", "ARC-Easy", ARC),
        ("arc_challenge", "ARC-Challenge", ARC),
        ("mmlu", "all", MMLU),
        ("gsm8k", "main", GSM8K),
    ],
)
def test_questions_come_in_the_order_in_which_datasets_shuffles_with_seed_42(
    tmp_path: Path, task: str, configuration: str, row: dict[str, Any]
) -> None:
    """So that the first N are nanochat's first N; `numpy.random.default_rng(42)` draws the permutation."""
    datasets = pytest.importorskip("datasets", reason="`datasets` shuffles as nanochat does")
    rows = [{**row, "id": f"row {n}", "question": f"Question {n}?"} for n in range(37)]
    source = hub_folder(tmp_path, configuration, "test", rows)
    loaded = list(load_task(MixtureItem.model_validate({"task": task, "source": source}), seed=7).questions())
    expected = datasets.Dataset.from_list(rows).shuffle(seed=42)
    texts = [question["messages"][0]["content"] for question in loaded]
    assert [re.findall(r"Question \d+\?", text) for text in texts] == [[text] for text in expected["question"]]
    numbers = [name.removeprefix("row ") for name in expected["id"]]
    assert [question["id"].removeprefix("row ") for question in loaded] == numbers
    assert {question["form"] for question in loaded} == {"nanochat"}


def test_training_conversations_stay_in_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = [{**GSM8K, "question": f"Question {n}?"} for n in range(9)]
    source = hub_folder(tmp_path, "main", "train", rows)
    taught = load_task(MixtureItem(task="gsm8k", source=source), seed=7).conversations("train")
    assert [each["messages"][0]["content"] for each in taught] == [row["question"] for row in rows]


def test_choices_are_rendered_as_in_nanochat(tmp_path: Path) -> None:
    source = hub_folder(tmp_path, "all", "test", [{**MMLU, "question": "2 + 2?"}])
    [question] = load_task(MixtureItem(task="mmlu", source=source), seed=7).questions()
    assert question == {
        "task": "mmlu", "kind": "choice", "letters": ["A", "B", "C", "D"], "answer": "D", "baseline": 0.25, "id": "0",
        "form": "nanochat", "subject": "sums",
        "messages": [{
            "role": "user",
            "content": "Multiple Choice question: 2 + 2?\n- 1=A\n- 2=B\n- 3=C\n- 4=D\n\n"
            "Respond only with the letter of the correct answer.",
        }],
    }  # fmt: skip


def test_the_form_of_a_prompt_is_in_the_questions_that_the_key_is_made_of(tmp_path: Path) -> None:
    """Case 27 (LM#475): one model has MMLU 38.3 in one form and 35.1 in another. Reports show the form too."""
    source = hub_folder(tmp_path / "mmlu", "all", "test", [MMLU])
    items = (MixtureItem(task="mmlu", source=source), MixtureItem(task="world", limit=1))
    write_questions(items, 42, tmp_path / "questions.jsonl")
    tasks = read_questions(tmp_path / "questions.jsonl")
    assert forms_of(tasks) == {"mmlu": "nanochat", "world_choice": "plain"}


def test_spelling_bee_answers_are_right_and_its_words_are_held_out() -> None:
    task = load_task(MixtureItem(task="spelling_bee"), seed=1)
    trained = set()
    for conversation in islice(task.conversations("train"), 200):
        parts = conversation["messages"][1]["content"]
        (call,) = (part["text"] for part in parts if part["type"] == "python")
        (output,) = (part["text"] for part in parts if part["type"] == "python_output")
        assert calculate(call) == output
        [word, letter] = re.findall(r"'(\w+)'", call)
        spelled = f"{word}: {','.join(word)}"
        assert parts[0]["text"].startswith(spelled)
        assert parts[0]["text"].count(f":{letter} (") == int(output)
        assert parts[-1]["text"].endswith(f"#### {output}")
        trained.add(word)
    questions = list(task.questions())
    assert len(questions) == 256
    assert questions == list(load_task(MixtureItem(task="spelling_bee"), seed=2).questions())
    taught = trained - set(re.findall(r"[a-z]+", " ".join(PHRASINGS).lower()))
    assert not [
        word for q in questions for word in re.findall(r"[a-z]+", q["messages"][0]["content"]) if word in taught
    ]
    assert len({question["messages"][0]["content"] for question in questions}) > 200
    assert judge_all([(questions[0], f"#### {questions[0]['answer']}")])[0].right


@pytest.mark.parametrize(
    ("text", "message"),
    [("goat\nToo loud\n", "line 1, is no word of the letters a to z: `Too loud`"), ("", "has too few words")],
)
def test_a_file_of_words_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "words.txt").write_text(text)
    task = load_task(MixtureItem(task="spelling_bee", source=str(tmp_path / "words.txt")), seed=1)
    with pytest.raises(BadSource, match=message):
        list(task.questions())
    with pytest.raises(BadSource, match="is no file of words"):
        list(load_task(MixtureItem(task="spelling_bee", source=str(tmp_path / "none.txt")), seed=1).questions())


def test_spelling_bee_uses_the_words_of_a_file(tmp_path: Path) -> None:
    words = [f"{a}{b}zz" for a in "abcdefgh" for b in "abcdefgh"]
    (tmp_path / "words.txt").write_text("\n".join(words) + "\n\n")
    task = load_task(MixtureItem(task="spelling_bee", source=str(tmp_path / "words.txt"), limit=50), seed=1)
    taught = [each["messages"][0]["content"] for each in task.conversations("train")]
    held = [question["messages"][0]["content"] for question in task.questions()]
    used, held_out = ({word for text in texts for word in words if word in text} for texts in (taught, held))
    assert len(taught) == 50
    assert used
    assert held_out
    assert not used & held_out
