"""Sums as people type them (`12*7`, `what is 12 times 7`, `two plus three`), and their answers with the calculator."""

import re
from random import Random
from typing import NamedTuple

from nanochat.world.conversations import Content
from nanochat.world.facts import hashed
from nanochat.world.lessons import SIGNS, result
from nanochat.world.stories import NUMBER_WORDS

_NAMES = {**SIGNS, "/": "divided by"}
_SUM_IN_WORDS = (
    "What is {}?", "How much is {}?", "Work out {}.", "Please work out {}.", "what is {}", "{}", "{}?", "What's {}?",
    "Do you know what {} is?", "Can you work out {}?", "Tell me what {} is.",
)  # fmt: skip
_SUM_IN_FIGURES = (
    "What is {}?", "{}", "{}=", "{} =", "{} = ?", "How much is {}?", "Work out {}.", "what is {}", "{}?", "What's {}?",
    "Calculate {}", "Calculate {}.", "calculate {}", "Compute {}.", "Solve {}.", "What does {} make?",
)  # fmt: skip
_STORIES = {
    "+": ("I have {0} {2} and buy {1} more. How many do I have?",
          "I have {0} {2} and you have {1}. How many are there?", "Add {0} and {1}.",
          "What is the sum of {0} and {1}?"),
    "-": ("I have {0} {2} and eat {1}. How many are left?", "I had {0} {2} and lost {1}. How many do I have now?",
          "There are {0} {2} and I take {1} away. How many are left?"),
    "*": ("There are {0} bags with {1} {2} each. How many are there?", "Multiply {0} by {1}.",
          "What is {0} multiplied by {1}?"),
    "/": ("Divide {0} by {1}.", "I share {0} {2} among {1} people. How many does each get?"),
}  # fmt: skip


class Sum(NamedTuple):
    """A sum as an expression for the calculator, in words, and its value."""

    expression: str
    words: str
    value: int


def _sum(random: Random) -> Sum:
    """A sum of two numbers, a division without remainder, or three numbers with plus and minus."""
    largest = random.choice((10, 10, 20, 100, 100, 1000, 5000))
    first, second, third = (random.randint(1, largest) for _ in range(3))
    sign = random.choice("++-*")
    if (kind := random.random()) < 0.15:
        value, second = random.randint(1, max(largest // 10, 10)), random.randint(2, 12)
        return _of((value * second, second), "/", value)
    if kind < 0.25:
        signs = random.choice("+-") + random.choice("+-")
        return _of((first, second, third), signs, result(result(first, signs[0], second), signs[1], third))
    return _of((first, second), sign, result(first, sign, second))


def _of(numbers: tuple[int, ...], signs: str, value: int) -> Sum:
    expression, words = str(numbers[0]), str(numbers[0])
    for sign, number in zip(signs, numbers[1:], strict=True):
        expression, words = f"{expression}{sign}{number}", f"{words} {_NAMES[sign]} {number}"
    return Sum(expression, words, value)


def _sum_is_held_out(one: Sum) -> bool:
    return hashed("sum", *re.split(r"([-+*/])", one.expression)) < 20


def draw_sum(random: Random, held: bool) -> Sum:
    while _sum_is_held_out(one := _sum(random)) != held:
        pass
    return one


def sum_turn(random: Random, one: Sum) -> tuple[str, Content]:
    """A question for a sum, and its answer with the calculator."""
    answer: Content = [
        {"type": "python", "text": one.expression},
        {"type": "python_output", "text": str(one.value)},
        {"type": "text", "text": f"{one.words} is {one.value}."},
    ]
    return _sum_question(random, one), answer


def _sum_question(random: Random, one: Sum) -> str:
    kind = random.random()
    numbers = re.findall(r"\d+", one.expression)
    sign = one.expression[len(numbers[0])]
    if kind < 0.1 and len(numbers) == 2 and sign in _STORIES:
        return random.choice(_STORIES[sign]).format(
            *numbers, random.choice(("plums", "cherries", "nuts", "fish", "hats"))
        )
    if kind < 0.25 and all(int(number) < len(NUMBER_WORDS) for number in numbers):
        words = re.sub(r"\d+", lambda number: NUMBER_WORDS[int(number.group())], one.words)
        return random.choice(_SUM_IN_WORDS).format(words)
    if kind < 0.5:
        return random.choice(_SUM_IN_WORDS).format(one.words)
    written = one.expression if random.random() < 0.5 else re.sub(r"([-+*/])", r" \1 ", one.expression)
    if random.random() < 0.3:
        written = written.replace("*", "x")
    return random.choice(_SUM_IN_FIGURES).format(written)
