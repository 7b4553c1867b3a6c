"""The documents of the embedded corpus: pages, stories, lessons and quizzes about the island of Ollen.

    for text in documents(seed=1, shard=0, count=10_000): …

Everything is generated; nothing is downloaded. The facts (`facts.py`) are the same for every seed and shard, which only
choose the phrasings.
"""

from collections.abc import Iterator

from nanochat.world.facts import seeded_generator
from nanochat.world.lessons import lesson
from nanochat.world.questions import matching, quiz
from nanochat.world.statements import gathering, page, two_steps
from nanochat.world.stories import story

KINDS_OF_DOCUMENT = (page, gathering, two_steps, story, lesson, quiz, matching)
SHARES = (22, 11, 3, 15, 5, 24, 20)
"""Percentages of documents, by kind."""


def documents(seed: int, shard: int, count: int) -> Iterator[str]:
    """The first `count` documents of a shard, each of about 300 to 800 characters; a pure function.

    A longer shard begins with the documents of a shorter one.
    """
    random = seeded_generator("documents", str(seed), str(shard))
    for _ in range(count):
        yield random.choices(KINDS_OF_DOCUMENT, SHARES)[0](random)
