"""The embedded world: conversations about the island, and the examination on what was never asked.

Its tasks: `world_choice` (four answers, each said in full: the likeliest counts), `world_letter` (the four choices
stand in the question and the letter alone is asked for, which takes a larger model), `world_answer` (open questions,
answered in a sentence).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from nanochat.tasks.conversation import Conversation, Question, Split, Task, choice_question, last_number, open_question
from nanochat.world.conversations import conversations as world_conversations
from nanochat.world.facts import RELATIONS
from nanochat.world.questions import LETTERS, held_out_answers, held_out_choices

TRAINING_CONVERSATIONS = 8_000
VALIDATION_CONVERSATIONS = 400


def task(seed: int, count: int = 0) -> Task:
    """Conversations of a seed, `count` of them in training; the questions are always the same."""

    def conversations(split: Split) -> Iterator[Conversation]:
        if split == "train":
            return world_conversations(seed, count or TRAINING_CONVERSATIONS)
        return world_conversations(seed, VALIDATION_CONVERSATIONS, held_out=True)

    def questions() -> Iterator[Question]:
        for made in held_out_choices():
            asked = made.asked
            before, _, behind = asked.sentence.rpartition(asked.answer)
            ways = [f"{before}{choice}{behind}" for choice in made.choices]
            yield choice_question("world_choice", asked.text, ways, asked.sentence)
        for made in held_out_choices():
            yield choice_question("world_letter", made.text, LETTERS, made.letter)
        for asked in held_out_answers():
            yield open_question("world_answer", asked.text, asked.answer)

    return Task("world", conversations, questions)


def judge(question: Question, completion: str) -> bool:
    """Whether the completion names the answer, and nothing else that could be one, beside what was asked about."""
    answer = question["answer"]
    if answer.isdigit():
        return last_number(completion) == float(answer)
    words = set(re.findall(r"\w+", completion)) - set(re.findall(r"\w+", question["messages"][0]["content"]))
    rivals = {value for values in RELATIONS.values() if answer in values for value in values}
    return words & rivals == {answer}
