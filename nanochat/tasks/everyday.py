"""What a newcomer types into a model of the embedded world: greetings, questions, sums, and what it cannot know.

Its questions are about subjects and sums that no training conversation contains: `everyday_outside` (the rest of the
world, other languages, nonsense: the answer is that it does not know) and `everyday_sum`.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from nanochat.tasks.answer_kinds import is_loop, kinds_of
from nanochat.tasks.conversation import Conversation, Question, Split, Task, open_question
from nanochat.tasks.numbers import last_number
from nanochat.tasks.verdict import Verdict
from nanochat.world.everyday import everyday, refused
from nanochat.world.facts import seeded_generator
from nanochat.world.sums import draw_sum, sum_turn

T = TypeVar("T")
TRAINING_CONVERSATIONS = 10_000
VALIDATION_CONVERSATIONS = 400
QUESTION_TASKS = ("everyday_outside", "everyday_sum")
OUTSIDE_QUESTIONS, SUM_QUESTIONS = 150, 50
PROBLEMS = 1_000


def task(seed: int, count: int = 0) -> Task:
    """Conversations of a seed; `count` is the number in the training split. The questions do not depend on the seed."""

    def conversations(split: Split) -> Iterator[Conversation]:
        if split == "train":
            return everyday(seed, count or TRAINING_CONVERSATIONS)
        return everyday(seed, VALIDATION_CONVERSATIONS, held_out=True)

    def problems() -> Iterator[Question]:
        random = seeded_generator("everyday problems", str(seed))
        outside = (count or PROBLEMS) // 2
        for question in _different(outside, lambda: refused(random, held=False)[0]):
            yield open_question("everyday_outside", question, "unknown")
        for one in _different((count or PROBLEMS) - outside, lambda: draw_sum(random, held=False)):
            yield open_question("everyday_sum", sum_turn(random, one)[0], str(one.value))

    return Task("everyday", conversations, _questions, problems)


def _questions() -> Iterator[Question]:
    random = seeded_generator("everyday questions")
    for question in _different(OUTSIDE_QUESTIONS, lambda: refused(random, held=True)[0]):
        yield open_question("everyday_outside", question, "unknown")
    for one in _different(SUM_QUESTIONS, lambda: draw_sum(random, held=True)):
        yield open_question("everyday_sum", sum_turn(random, one)[0], str(one.value))


def _different(count: int, draw: Callable[[], T]) -> list[T]:
    """The first `count` different results of `draw`."""
    found: dict[T, None] = {}
    while len(found) < count:
        found[draw()] = None
    return list(found)


def judge(question: Question, completion: str) -> Verdict:
    """Whether the answer ends with the number, or contains nothing but that the model does not know."""
    expected = question["answer"]
    if expected == "unknown":
        return Verdict(kinds_of(completion) == {"unknown"} and not is_loop(completion))
    return Verdict(last_number(completion) == int(expected))
