"""Questions with lettered choices in the form of nanochat, which also trains on it.

    Multiple Choice question: Which is a bird?
    - whale=A
    - heron=B

    Respond only with the letter of the correct answer.

The letter comes after its choice, which small models bind more easily, and without a space, so that it is the token
that the answer consists of.
"""

from collections.abc import Sequence

from nanochat.tasks.conversation import NANOCHAT_FORM, Question, choice_question

BEFORE = "Multiple Choice question: "
AFTER = "Respond only with the letter of the correct answer."


def lettered_question(
    task: str, question: str, choices: Sequence[str], letters: Sequence[str], answer: str, **more: str
) -> Question:
    """`letters` has a letter (or number) for each choice, and `answer` is one of them."""
    lines = "".join(f"- {choice}={letter}\n" for choice, letter in zip(choices, letters, strict=True))
    text = f"{BEFORE}{question}\n{lines}\n{AFTER}"
    return choice_question(task, text, letters, answer, form=NANOCHAT_FORM, **more)
