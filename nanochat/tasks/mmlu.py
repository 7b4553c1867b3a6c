"""MMLU: exam questions of 57 subjects with four choices (arXiv:2009.03300)."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from nanochat.errors import BadSource
from nanochat.tasks.conversation import Conversation, Question, Split, Task, exchange, text_in
from nanochat.tasks.fields import Counts
from nanochat.tasks.hub_rows import field, hub_rows, shuffled
from nanochat.tasks.lettered import lettered_question

ID = "cais/mmlu"
LETTERS = ("A", "B", "C", "D")
SPLITS: dict[Split, str] = {"train": "auxiliary_train", "validation": "validation"}


def task(source: str, counts: Counts) -> Task:
    def question_of(number: int, where: str, row: Mapping[str, Any]) -> Question | None:
        row = row["train"] if isinstance(row.get("train"), dict) else row  # auxiliary_train nests its rows
        choices, answer = field(row, "choices", where), field(row, "answer", where)
        if not isinstance(choices, list) or len(choices) != len(LETTERS):
            raise BadSource(f"{where} should have a list of four texts in `choices`.")
        if type(answer) is not int or answer not in range(len(LETTERS)):
            raise BadSource(f"{where} has the answer `{answer}`, which is not the number of a choice (0 to 3).")
        question = text_in(field(row, "question", where), "question", where)
        texts = [text_in(choice, "choices", where) for choice in choices]
        if not question.strip():
            counts.skip("empty_question", where)
            return None
        subject = str(row.get("subject") or "")
        return lettered_question("mmlu", question, texts, LETTERS, LETTERS[answer], id=str(number), subject=subject)

    def questions(split: str) -> Iterator[Question]:
        for number, (where, row) in shuffled(hub_rows(source, ID, "all", split)):
            if (question := question_of(number, where, row)) is not None:
                yield question

    def conversations(split: Split) -> Iterator[Conversation]:
        for number, (where, row) in enumerate(hub_rows(source, ID, "all", SPLITS[split])):
            if (question := question_of(number, where, row)) is not None:
                yield exchange(question["messages"][0]["content"], question["answer"])

    return Task("mmlu", conversations, partial(questions, "test"))
