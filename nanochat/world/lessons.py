"""Lessons as in a school book: small sums, spelling, opposites, days and months."""

from collections.abc import Sequence
from random import Random

from nanochat.world.facts import COLOURS, FOODS, KINDS, SIGHTS, THING_NAMES, TRADES
from nanochat.world.stories import NUMBER_WORDS

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
OPPOSITES = (("hot", "cold"), ("big", "small"), ("old", "new"), ("long", "short"), ("high", "low"), ("fast", "slow"),
             ("light", "dark"), ("wet", "dry"), ("full", "empty"), ("open", "closed"), ("early", "late"),
             ("happy", "sad"), ("loud", "quiet"), ("hard", "soft"), ("rich", "poor"), ("near", "far"))  # fmt: skip
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
OTHER_WORDS = ("apple", "tree", "river", "window", "letter", "summer", "winter", "morning", "evening", "yellow",
               "silver", "pocket", "button", "garden", "kitchen", "butter", "pepper", "sugar", "water", "paper",
               "hammer", "ladder", "balloon", "coffee", "tomato", "banana", "berry", "cherry", "flower", "grass",
               "stone", "street", "school", "pencil", "finger", "shoulder", "sister", "brother", "mother", "father",
               "island", "ocean", "mountain", "valley", "forest", "meadow", "feather", "wheel")  # fmt: skip
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys((*KINDS, *THING_NAMES, *FOODS, *COLOURS, *TRADES, *SIGHTS.values(), *OTHER_WORDS))
)
SIGNS = {"+": "plus", "-": "minus", "*": "times"}


def result(first: int, sign: str, second: int) -> int:
    return {"+": first + second, "-": first - second, "*": first * second}[sign]


def small_sum(random: Random) -> tuple[int, str, int]:
    """A sum whose parts and result are from 0 to 20, or a product from 1 times 1 to 5 times 10."""
    sign = random.choice("++--*")
    if sign == "*":
        return random.randint(1, 5), sign, random.randint(1, 10)
    first, second = random.randint(1, 10), random.randint(1, 10)
    return (first, sign, second) if sign == "+" else (first + second, sign, first)


def sum_sentence(random: Random, first: int, sign: str, second: int) -> str:
    answer = result(first, sign, second)
    forms = [
        f"{first} {SIGNS[sign]} {second} is {answer}.",
        f"{first} {sign.replace('*', 'x')} {second} = {answer}.",
        f"If you work out {first} {SIGNS[sign]} {second}, you get {answer}.",
    ]
    if max(first, second, answer) <= 20 and min(first, second, answer) > 0:
        words = NUMBER_WORDS
        forms.append(f"{words[first].capitalize()} {SIGNS[sign]} {words[second]} is {words[answer]}.")
    return random.choice(forms)


def spelled(word: str) -> str:
    return "-".join(word)


def count_phrase(word: str, letter: str) -> str:
    count = word.count(letter)
    return "once" if count == 1 else "twice" if count == 2 else "not at all" if count == 0 else f"{count} times"


def spelling_sentence(random: Random, word: str) -> str:
    letter = random.choice(word if random.random() < 0.8 else ALPHABET)
    return random.choice(
        (
            f"The word {word} is spelled {spelled(word)}.",
            f"{spelled(word)} spells {word}.",
            f"The word {word} has {len(word)} letters: {spelled(word)}.",
            f"{word} begins with {word[0]} and ends with {word[-1]}.",
            f"The letter {letter} is in {word} {count_phrase(word, letter)}: {spelled(word)}.",
            f"{word} backwards is {spelled(word[::-1])}.",
        )
    )


def after(cycle: Sequence[str], item: str, steps: int = 1) -> str:
    return cycle[(cycle.index(item) + steps) % len(cycle)]


def calendar_sentence(random: Random) -> str:
    cycle, kind = random.choice(((DAYS, "day"), (MONTHS, "month")))
    item = random.choice(cycle)
    nearby = after(cycle, item)
    forms = [
        f"After {item} comes {nearby}.",
        f"Before {nearby} comes {item}.",
        f"The {kind} after {item} is {nearby}.",
        f"The {kind} before {nearby} is {item}.",
    ]
    if kind == "day":
        forms.append(f"If today is {item}, then tomorrow is {nearby}.")
        forms.append(f"If yesterday was {item}, then today is {nearby} and tomorrow is {after(cycle, item, 2)}.")
    return random.choice(forms)


def opposite_sentence(random: Random) -> str:
    one, other = random.choice(OPPOSITES)
    if random.random() < 0.5:
        one, other = other, one
    return random.choice(
        (
            f"The opposite of {one} is {other}.",
            f"{one.capitalize()} is the opposite of {other}.",
            f"What is not {one} may be {other}.",
            f"Not {one}, but {other}: that is the opposite.",
        )
    )


def lesson(random: Random) -> str:
    """A lesson about one subject, of about 300 characters."""
    subject = random.choices(("sums", "spelling", "calendar", "opposites"), (5, 3, 2, 2))[0]
    if subject == "sums":
        return " ".join(sum_sentence(random, *small_sum(random)) for _ in range(14))
    if subject == "spelling":
        return " ".join(spelling_sentence(random, random.choice(WORDS)) for _ in range(8))
    if subject == "calendar":
        return " ".join(calendar_sentence(random) for _ in range(8))
    return " ".join(opposite_sentence(random) for _ in range(8))
