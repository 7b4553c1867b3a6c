"""The embedded world: conversations about the island, and the evaluation on held-out questions.

Its tasks: `world_choice` (four full sentences, of which the most likely one counts), `world_letter` (four choices in
the question, and a letter as the answer, which needs a larger model), `world_answer` (open questions, answered in a
sentence).
"""

import re
from collections.abc import Iterator

from nanochat.tasks.conversation import Conversation, Question, Split, Task, choice_question, open_question
from nanochat.tasks.numbers import last_number
from nanochat.tasks.verdict import Verdict
from nanochat.world.conversations import conversations as world_conversations
from nanochat.world.facts import RELATIONS, seeded_generator
from nanochat.world.questions import LETTERS, draw_open, held_out_answers, held_out_choices

TRAINING_CONVERSATIONS = 8_000
VALIDATION_CONVERSATIONS = 400
PROBLEMS = 4_000


def task(seed: int, count: int = 0) -> Task:
    """Conversations of a seed; `count` is the number in the training split. The questions do not depend on the seed."""

    def conversations(split: Split) -> Iterator[Conversation]:
        if split == "train":
            return world_conversations(seed, count or TRAINING_CONVERSATIONS)
        return world_conversations(seed, VALIDATION_CONVERSATIONS, held_out=True)

    def questions() -> Iterator[Question]:
        for made in held_out_choices():
            question = made.question
            before, _, behind = question.sentence.rpartition(question.answer)
            ways = [f"{before}{choice}{behind}" for choice in made.choices]
            yield choice_question("world_choice", question.text, ways, question.sentence)
        for made in held_out_choices():
            yield choice_question("world_letter", made.text, LETTERS, made.letter)
        for question in held_out_answers():
            yield open_question("world_answer", question.text, question.answer)

    def problems() -> Iterator[Question]:
        random = seeded_generator("world problems", str(seed))
        texts: set[str] = set()
        for _ in range(count or PROBLEMS):
            question = draw_open(random)
            if question.text not in texts:
                texts.add(question.text)
                yield open_question("world_answer", question.text, question.answer)

    return Task("world", conversations, questions, problems)


def judge(question: Question, completion: str) -> Verdict:
    """Whether the completion names the answer and no other possible answer, apart from words of the question."""
    answer = question["answer"]
    if answer.isdigit():
        return Verdict(last_number(completion) == int(answer))
    words = set(re.findall(r"\w+", completion)) - set(re.findall(r"\w+", question["messages"][0]["content"]))
    rivals = {value for values in RELATIONS.values() if answer in values for value in values}
    return Verdict(words & rivals == {answer})
