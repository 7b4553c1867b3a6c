"""Spelling words and counting their letters with the calculator."""

import re
from collections.abc import Iterator
from random import Random

from nanochat.tasks.conversation import Conversation, Question, Split, Task, exchange, open_question
from nanochat.tasks.numbers import last_number
from nanochat.tasks.verdict import Verdict
from nanochat.world.conversations import HELD_OUT_WORDS, TRAINING_WORDS, spelling_turn
from nanochat.world.facts import seeded_generator

TRAINING_CONVERSATIONS = 2_000
VALIDATION_CONVERSATIONS = 100


def task(seed: int, count: int = 0) -> Task:
    """Conversations of a seed; `count` is the number in the training split. The questions do not depend on the seed."""

    def conversations(split: Split) -> Iterator[Conversation]:
        train = split == "train"
        words = TRAINING_WORDS if train else HELD_OUT_WORDS
        random = seeded_generator("spelling", split, str(seed))
        for _ in range((count or TRAINING_CONVERSATIONS) if train else VALIDATION_CONVERSATIONS):
            question, answer, _ = spelling_turn(random, random.choice(words))
            yield exchange(question, answer)

    def problems() -> Iterator[Question]:
        random = seeded_generator("spelling problems", str(seed))
        texts: set[str] = set()
        for _ in range(count or TRAINING_CONVERSATIONS):
            question, _, expected = spelling_turn(random, random.choice(TRAINING_WORDS))
            if question not in texts:
                texts.add(question)
                yield open_question("spelling", question, expected)

    return Task("spelling", conversations, _questions, problems)


def _questions() -> Iterator[Question]:
    """One question per held-out word."""
    random: Random = seeded_generator("spelling", "examination")  # plain-words: ok
    for word in HELD_OUT_WORDS:
        question, _, expected = spelling_turn(random, word)
        yield open_question("spelling", question, expected)


def judge(question: Question, completion: str) -> Verdict:
    """Whether the word is spelled `l-i-k-e` this, or the number of letters is right."""
    answer = question["answer"]
    if answer.isdigit():
        return Verdict(last_number(completion) == int(answer))
    return Verdict(answer in re.findall(r"[\w-]+", completion))
