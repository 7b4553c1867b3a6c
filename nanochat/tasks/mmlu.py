"""MMLU: exam questions of 57 subjects with four choices (arXiv:2009.03300)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from nanochat.errors import BadSource
from nanochat.tasks.conversation import Conversation, Question, Split, Task, choice_question, exchange
from nanochat.tasks.hub import field, hub_rows
from nanochat.world.questions import LETTERS, with_choices

ID = "cais/mmlu"
SPLITS: dict[Split, str] = {"train": "auxiliary_train", "validation": "validation"}


def task(source: str) -> Task:
    def questions(split: str) -> Iterator[Question]:
        for where, row in hub_rows(source, ID, "all", split):
            row = row["train"] if isinstance(row.get("train"), dict) else row  # auxiliary_train nests its rows
            choices, answer = field(row, "choices", where), field(row, "answer", where)
            if len(choices) != len(LETTERS) or answer not in range(len(LETTERS)):
                raise BadSource(f"{where} has {len(choices)} choices and the answer {answer}; it should have four.")
            text = with_choices(field(row, "question", where), choices)
            yield choice_question("mmlu", text, LETTERS, LETTERS[answer])

    def conversations(split: Split) -> Iterator[Conversation]:
        for question in questions(SPLITS[split]):
            yield exchange(question["messages"][0]["content"], question["answer"])

    return Task("mmlu", conversations, partial(questions, "test"))
