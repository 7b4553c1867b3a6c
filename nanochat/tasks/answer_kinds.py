"""Which kind of answer a text is, sentence by sentence: true of the island, a sum, a greeting, or that it is not known.

    kinds_of("I do not know that. I only know the island of Ollen.")  → {"unknown"}
    kinds_of("Mira lives in Reedham.")                                → {"island"}
    kinds_of("Napoleon lives in Reedham.")                            → {"invented"}

A sentence is `island` only if it states a fact of the island, and `sum` only if it is right.
Every sentence that is none of these is `invented`.
"""

import re
from functools import cache
from typing import Literal

from nanochat.tools.calculator import calculate
from nanochat.world.conversations import DO_NOT_KNOW
from nanochat.world.everyday import CANNOT, DO_NOT_UNDERSTAND, ONLY_ENGLISH, SMALL_TALK
from nanochat.world.questions import HELD_OUT, TRAINING
from nanochat.world.statements import STATEMENTS, greeting_of_island

AnswerKind = Literal["unknown", "small_talk", "island", "sum", "invented"]

_BESIDE: frozenset[AnswerKind] = frozenset({"small_talk"})
REPETITIONS = 4
"""A text in which something is written as often as this in a row is a loop."""
_LOOP = re.compile(rf"(\S.{{1,200}}?)(?:\s*\1){{{REPETITIONS - 1}}}", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SUM = re.compile(r"(\d+(?: (?:plus|minus|times|divided by) \d+)+) is (-?\d+)\.")
_SIGNS = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}


def kinds_of(text: str) -> set[AnswerKind]:
    """The kinds of the sentences of an answer; a greeting beside something else is not listed."""
    kinds: set[AnswerKind] = {_kind(sentence) for sentence in sentences_of(text)}
    return kinds - _BESIDE or kinds or {"invented"}


def sentences_of(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]


def is_loop(text: str) -> bool:
    """Whether a text repeats something in a row, as small models do when they do not find an end."""
    return _LOOP.search(text) is not None


def _kind(sentence: str) -> AnswerKind:
    if kind := _known_sentences().get(sentence):
        return kind
    if found := _SUM.fullmatch(sentence):
        expression = re.sub("|".join(_SIGNS), lambda word: _SIGNS[word.group()], found[1])
        return "sum" if calculate(expression) == found[2] else "invented"
    return "invented"


@cache
def _known_sentences() -> dict[str, AnswerKind]:
    known: dict[str, AnswerKind] = {}
    for answers in (*(answers for _, answers in SMALL_TALK.values()),):
        known |= {sentence: "small_talk" for answer in answers for sentence in sentences_of(answer)}
    for answer in (*DO_NOT_KNOW, *CANNOT, *ONLY_ENGLISH, *DO_NOT_UNDERSTAND):
        known |= {sentence: "unknown" for sentence in sentences_of(answer) if sentence not in known}
    facts = [phrasing for phrasings in STATEMENTS.values() for phrasing in phrasings]
    lessons = [question.sentence for pools in (TRAINING, HELD_OUT) for question in (*pools.two_steps, *pools.school)]
    known |= dict.fromkeys((*facts, *lessons, *sentences_of(greeting_of_island())), "island")
    return known
