"""ARC: grade-school science questions with three to five choices (arXiv:1803.05457), easy and challenge."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from nanochat.errors import BadSource
from nanochat.tasks.conversation import Conversation, Question, Split, Task, choice_question, exchange, text_in
from nanochat.tasks.fields import Counts
from nanochat.tasks.hub_rows import field, hub_rows
from nanochat.world.questions import with_choices

ID = "allenai/ai2_arc"
LETTERS = ("A", "B", "C", "D", "E")


def task(name: str, source: str, counts: Counts) -> Task:
    """`arc_easy` or `arc_challenge`."""
    configuration = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge"}[name]

    def questions(split: str) -> Iterator[Question]:
        for where, row in hub_rows(source, ID, configuration, split):
            labels, texts = _choices(field(row, "choices", where), where)
            key = field(row, "answerKey", where)
            if labels.count(key) != 1:
                raise BadSource(f"{where} has the answer `{key}`, which is not one of its choices.")
            question = text_in(field(row, "question", where), "question", where)
            if not question.strip():
                counts.skip("empty_question", where)
                continue
            letters = LETTERS[: len(texts)]  # some rows number their choices instead
            text = with_choices(question, texts, letters)
            yield choice_question(name, text, letters, letters[labels.index(key)])

    def conversations(split: Split) -> Iterator[Conversation]:
        for question in questions(split):
            yield exchange(question["messages"][0]["content"], question["answer"])

    return Task(name, conversations, partial(questions, "test"))


def _choices(choices: Any, where: str) -> tuple[list[Any], list[str]]:
    """Labels and texts of the two to five choices of a row."""
    labels, texts = (choices.get("label"), choices.get("text")) if isinstance(choices, Mapping) else (None, None)
    if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
        raise BadSource(f"{where} should have lists `label` and `text` of one length in `choices`.")
    if not 2 <= len(labels) <= len(LETTERS):
        raise BadSource(f"{where} has {len(labels)} choices; it should have two to five.")
    return labels, [text_in(text, "choices.text", where) for text in texts]
