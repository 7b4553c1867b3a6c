"""The documents of the embedded corpus: pages, stories, lessons and quizzes about the island of Ollen.

    for text in documents(seed=1, shard=0, count=10_000): …

Everything is made here, in our own words; nothing is downloaded. The facts are the same for every seed and shard
(`facts.py`); a seed and a shard choose how they are told, so that shards are different tellings of one world.
"""

from __future__ import annotations

from collections.abc import Iterator

from nanochat.world.facts import seeded_generator
from nanochat.world.lessons import lesson
from nanochat.world.questions import matching, quiz
from nanochat.world.statements import gathering, page, two_steps
from nanochat.world.stories import story

KINDS_OF_DOCUMENT = (page, gathering, two_steps, story, lesson, quiz, matching)
SHARES = (22, 11, 3, 15, 5, 24, 20)
"""Out of 100 documents, so many of each kind."""


def documents(seed: int, shard: int, count: int) -> Iterator[str]:
    """The first `count` documents of a shard, each some 300 to 800 characters; a pure function of its arguments.

    A longer shard begins with the documents of a shorter one.
    """
    random = seeded_generator("documents", str(seed), str(shard))
    for _ in range(count):
        yield random.choices(KINDS_OF_DOCUMENT, SHARES)[0](random)
