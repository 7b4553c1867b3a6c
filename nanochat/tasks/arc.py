"""ARC: science questions of grade school with three to five choices (arXiv:1803.05457), easy and challenge."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from nanochat.errors import BadSource
from nanochat.tasks.conversation import Conversation, Question, Split, Task, choice_question, exchange
from nanochat.tasks.hub import field, hub_rows
from nanochat.world.questions import with_choices

ID = "allenai/ai2_arc"
LETTERS = ("A", "B", "C", "D", "E")


def task(name: str, source: str) -> Task:
    """`arc_easy` or `arc_challenge`."""
    configuration = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge"}[name]

    def questions(split: str) -> Iterator[Question]:
        for where, row in hub_rows(source, ID, configuration, split):
            choices = field(row, "choices", where)
            labels, texts = list(choices["label"]), list(choices["text"])
            key = field(row, "answerKey", where)
            if key not in labels or not 2 <= len(texts) <= len(LETTERS):
                raise BadSource(f"{where} has the answer `{key}`, which is none of its choices.")
            letters = LETTERS[: len(texts)]  # some rows number their choices instead
            text = with_choices(field(row, "question", where), texts, letters)
            yield choice_question(name, text, letters, letters[labels.index(key)])

    def conversations(split: Split) -> Iterator[Conversation]:
        for question in questions(split):
            yield exchange(question["messages"][0]["content"], question["answer"])

    return Task(name, conversations, partial(questions, "test"))
