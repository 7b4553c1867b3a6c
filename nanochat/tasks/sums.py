"""Sums with the calculator, in all the ways of `everyday`, and enough of them for reinforcement learning."""

from collections.abc import Iterator

from nanochat.tasks.conversation import Conversation, Question, Split, Task, exchange, open_question
from nanochat.tasks.numbers import last_number
from nanochat.tasks.verdict import Verdict
from nanochat.world.facts import seeded_generator
from nanochat.world.sums import draw_sum, sum_turn

TRAINING_CONVERSATIONS, VALIDATION_CONVERSATIONS = 2_000, 100
PROBLEMS, QUESTIONS = 4_000, 400


def task(seed: int, count: int = 0) -> Task:
    """Conversations of a seed; `count` is the number in the training split. The questions do not depend on the seed."""

    def conversations(split: Split) -> Iterator[Conversation]:
        train = split == "train"
        random = seeded_generator("sums", split, str(seed))
        for _ in range((count or TRAINING_CONVERSATIONS) if train else VALIDATION_CONVERSATIONS):
            yield exchange(*sum_turn(random, draw_sum(random, held=not train)))

    return Task(
        "sums",
        conversations,
        questions=lambda: _questions(QUESTIONS, held=True, seed="questions"),
        problems=lambda: _questions(count or PROBLEMS, held=False, seed=f"problems {seed}"),
    )


def _questions(count: int, *, held: bool, seed: str) -> Iterator[Question]:
    """Questions with different texts."""
    random = seeded_generator("sums", seed)
    seen: set[str] = set()
    while len(seen) < count:
        one = draw_sum(random, held)
        text, _ = sum_turn(random, one)
        if text not in seen:
            seen.add(text)
            yield open_question("sums", text, str(one.value))


def judge(question: Question, completion: str) -> Verdict:
    """Whether the answer ends with the number."""
    return Verdict(last_number(completion) == int(question["answer"]))
