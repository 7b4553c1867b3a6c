"""MMLU: exam questions of 57 subjects with four choices (arXiv:2009.03300)."""

from collections.abc import Iterator
from functools import partial

from nanochat.errors import BadSource
from nanochat.tasks.conversation import Conversation, Question, Split, Task, choice_question, exchange, text_in
from nanochat.tasks.fields import Counts
from nanochat.tasks.hub_rows import field, hub_rows
from nanochat.world.questions import LETTERS, with_choices

ID = "cais/mmlu"
SPLITS: dict[Split, str] = {"train": "auxiliary_train", "validation": "validation"}


def task(source: str, counts: Counts) -> Task:
    def questions(split: str) -> Iterator[Question]:
        for where, row in hub_rows(source, ID, "all", split):
            row = row["train"] if isinstance(row.get("train"), dict) else row  # auxiliary_train nests its rows
            choices, answer = field(row, "choices", where), field(row, "answer", where)
            if not isinstance(choices, list) or len(choices) != len(LETTERS):
                raise BadSource(f"{where} should have a list of four texts in `choices`.")
            if type(answer) is not int or answer not in range(len(LETTERS)):
                raise BadSource(f"{where} has the answer `{answer}`, which is not the number of a choice (0 to 3).")
            question = text_in(field(row, "question", where), "question", where)
            if not question.strip():
                counts.skip("empty_question", where)
                continue
            text = with_choices(question, [text_in(choice, "choices", where) for choice in choices])
            yield choice_question("mmlu", text, LETTERS, LETTERS[answer])

    def conversations(split: Split) -> Iterator[Conversation]:
        for question in questions(SPLITS[split]):
            yield exchange(question["messages"][0]["content"], question["answer"])

    return Task("mmlu", conversations, partial(questions, "test"))
