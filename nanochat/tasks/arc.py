"""ARC: grade-school science questions with three to five choices (arXiv:1803.05457), easy and challenge."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from nanochat.errors import BadSource
from nanochat.tasks.conversation import Conversation, Question, Split, Task, exchange, text_in
from nanochat.tasks.fields import Counts
from nanochat.tasks.hub_rows import field, hub_rows, shuffled
from nanochat.tasks.lettered import lettered_question

ID = "allenai/ai2_arc"
MOST_CHOICES = 5


def task(name: str, source: str, counts: Counts) -> Task:
    """`arc_easy` or `arc_challenge`."""
    configuration = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge"}[name]

    def question_of(number: int, where: str, row: Mapping[str, Any]) -> Question | None:
        labels, texts = _choices(field(row, "choices", where), where)
        key = field(row, "answerKey", where)
        if key not in labels:
            raise BadSource(f"{where} has the answer `{key}`, which is not one of its choices.")
        question = text_in(field(row, "question", where), "question", where)
        if not question.strip():
            counts.skip("empty_question", where)
            return None
        return lettered_question(name, question, texts, labels, key, id=str(row.get("id") or number))

    def questions(split: str) -> Iterator[Question]:
        for number, (where, row) in shuffled(hub_rows(source, ID, configuration, split)):
            if (question := question_of(number, where, row)) is not None:
                yield question

    def conversations(split: Split) -> Iterator[Conversation]:
        for number, (where, row) in enumerate(hub_rows(source, ID, configuration, split)):
            if (question := question_of(number, where, row)) is not None:
                yield exchange(question["messages"][0]["content"], question["answer"])

    return Task(name, conversations, partial(questions, "test"))


def _choices(choices: Any, where: str) -> tuple[list[str], list[str]]:
    """Labels and texts of the two to five choices of a row; some rows have numbers for labels."""
    labels, texts = (choices.get("label"), choices.get("text")) if isinstance(choices, Mapping) else (None, None)
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        raise BadSource(f"{where} should have lists `label` and `text` of one length in `choices`.")
    if not 2 <= len(labels) <= MOST_CHOICES:
        raise BadSource(f"{where} has {len(labels)} choices; it should have two to five.")
    labels = [text_in(label, "choices.label", where) for label in labels]
    if len(set(labels)) < len(labels) or "" in labels:
        raise BadSource(f"{where} has the labels {labels}, which should differ and have a letter each.")
    return labels, [text_in(text, "choices.text", where) for text in texts]
