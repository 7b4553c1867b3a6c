"""Questions about the world, open and with four choices, and which of them are held out.

What is held out, and why it is honest: a fifth of the facts, sums, days and opposites (by hash, whatever the seed) is
never asked about, neither in the quiz pages of the corpus nor in any training conversation, in no direction and no
phrasing. The corpus *tells* those facts, in statements and stories, as often as all others. So a right answer needs the
fact from reading, the kind of question from the other facts, and the binding of choice to letter; it cannot be
remembered from an earlier asking. The examination (`held_out_choices`, `held_out_answers`) asks only what is held out.

The examination asks each choice in two ways. As *whole answers*: the plain question, and of four sentences the one
that the model finds likeliest is its answer, so that what it knows decides. By *letter*: the choices stand in the
question and `A` alone is the answer, so that it must also bind letters to choices, which small models learn late, all
at once, and after the facts. In training, a third form stands between them: the choice with its letter, `goat=A`.
Questions in two steps ("the keeper of the goat lives in …") are held out when one of their facts is.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from nanochat.world.facts import (
    COLOURS,
    FACTS,
    FOODS,
    KEPT,
    KINDS,
    MADE,
    NAMES,
    PERSON,
    PLACES,
    RELATIONS,
    THING_NAMES,
    TRADES,
    Fact,
    hashed,
    held_out,
    seeded_generator,
)
from nanochat.world.lessons import DAYS, MONTHS, OPPOSITES, SIGNS, after, result
from nanochat.world.statements import PHRASES, words_of

CATEGORIES = {
    "a person": NAMES,
    "a place": PLACES,
    "a trade": TRADES,
    "a food": FOODS,
    "a colour": COLOURS,
    "an animal": KINDS,
    "a thing": THING_NAMES,
    "a day": DAYS,
    "a month": MONTHS,
}
LETTERS = ("A", "B", "C", "D")
INSTRUCTION = "Answer with the letter."
IN_FULL = "Answer in full."

# Which value has this subject; {s}, {kin} as in `telling.PHRASES`.
ASK_VALUE: dict[str, tuple[str, ...]] = {
    "home": ("Where does {s} live?", "In which place does {s} live?", "Where is the home of {s}?"),
    "trade": ("What is the trade of {s}?", "What does {s} work as?", "Which trade has {s}?"),
    "food": ("What is the favourite food of {s}?", "What does {s} like to eat best?", "Which food does {s} love?"),
    "colour": ("What is the favourite colour of {s}?", "Which colour does {s} like best?"),
    "sibling": ("Who is the {kin} of {s}?", "What is the name of the {kin} of {s}?"),
    "keeps": ("Which animal does {s} keep?", "What animal has {s}?", "Which animal belongs to {s}?"),
    "called": ("What is the {s} called?", "What is the name of the {s}?"),
    "made": ("What did {s} make?", "Which thing was made by {s}?", "Which thing is the work of {s}?"),
    "costs": ("How many coins does the {s} cost?", "What does the {s} cost?", "What is the price of the {s}?"),
    "sight": ("What is {s} known for?", "What can you see in {s}?"),
    "south": ("Which place lies south of {s}?", "Where do you come to when you walk south from {s}?"),
    "east": ("Which place lies east of {s}?", "Where do you come to when you walk east from {s}?"),
}
# Which subject has this value.
ASK_SUBJECT: dict[str, tuple[str, ...]] = {
    "home": ("Who lives in {v}?", "Whose home is in {v}?"),
    "trade": ("Who is {av}?", "Who works as {av}?"),
    "food": ("Who likes {v} best?", "Whose favourite food is {v}?"),
    "colour": ("Who likes the colour {v} best?", "Whose favourite colour is {v}?"),
    "keeps": ("Who keeps the {v}?", "Who is the keeper of the {v}?", "Whose animal is the {v}?"),
    "called": ("Which animal is called {v}?", "What animal is {v}?"),
    "made": ("Who made the {v}?", "Who is the maker of the {v}?", "Whose work is the {v}?"),
    "costs": ("What costs {v} coins?", "Which thing can you buy for {v} coins?"),
    "sight": ("Where is the {v}?", "Which place is known for its {v}?"),
    "south": ("Which place lies north of {v}?", "Where do you come to when you walk north from {v}?"),
    "east": ("Which place lies west of {v}?", "Where do you come to when you walk west from {v}?"),
}
UNIQUE = frozenset({"keeps", "called", "made", "costs", "sight", "south", "east"})  # one subject a value


class Asked(NamedTuple):
    """A question: its text, the short answer, the answer as a sentence, and what wrong choices are drawn from."""

    text: str
    answer: str
    sentence: str
    wrong: tuple[str, ...]
    open: bool = True
    """Whether it has one answer even without choices."""


class Choice(NamedTuple):
    """A question with four choices; `text` has them, one a line, and `letter` is the answer."""

    text: str
    letter: str
    asked: Asked
    choices: tuple[str, ...]


def with_choices(question: str, choices: tuple[str, ...] | list[str], letters: tuple[str, ...] = LETTERS) -> str:
    """The question, each choice on a line with its letter behind it, and what to do.

    The letter follows the choice, and no space is between them, because small models copy what comes after a match
    more easily than what came before it.
    """
    lines = "".join(f"- {choice}={letter}\n" for choice, letter in zip(choices, letters, strict=False))
    return f"{question}\n{lines}{INSTRUCTION}"


def choice(random: Random, asked: Asked) -> Choice:
    """Four choices in a random order, so that every letter is right equally often."""
    choices = random.sample(asked.wrong, 3)
    right = random.randrange(4)
    choices.insert(right, asked.answer)
    return Choice(with_choices(asked.text, choices), LETTERS[right], asked, tuple(choices))


# --- the questions of one fact ----------------------------------------------------------------------------------------


def value_questions(fact: Fact) -> list[Asked]:
    """All phrasings that ask for the fact's value."""
    words = words_of(fact)
    wrong = tuple(value for value in RELATIONS[fact.relation] if value not in (fact.value, fact.subject))
    if fact.relation == "sibling":  # a brother's name would give the sister away
        wrong = tuple(name for name in wrong if PERSON[name].pronoun == PERSON[fact.value].pronoun)
    sentence = PHRASES[fact.relation][0].format(**words)
    return [Asked(form.format(**words), fact.value, sentence, wrong) for form in ASK_VALUE[fact.relation]]


def subject_questions(fact: Fact) -> list[Asked]:
    """All phrasings that ask for the fact's subject; those with several right answers are only good with choices."""
    words = words_of(fact)
    same = [other for other in FACTS if other.relation == fact.relation]
    wrong = tuple(other.subject for other in same if other.value != fact.value and other.subject != fact.value)
    sentence = PHRASES[fact.relation][0].format(**words)
    forms = ASK_SUBJECT.get(fact.relation, ())
    return [Asked(form.format(**words), fact.subject, sentence, wrong, fact.relation in UNIQUE) for form in forms]


def _two_steps() -> Iterator[tuple[bool, Asked]]:
    """Questions that join two facts, and whether one of them is held out."""
    for name in NAMES:
        person = PERSON[name]
        home, trade = Fact("home", name, person.home), Fact("trade", name, person.trade)
        roles = []
        if name in KEPT:
            roles.append((f"the keeper of the {KEPT[name].kind}", Fact("keeps", name, KEPT[name].kind)))
        if name in MADE:
            roles.append((f"the maker of the {MADE[name].name}", Fact("made", name, MADE[name].name)))
        for role, fact in roles:
            where = f"{name} is {role} and lives in {person.home}."
            what = f"{name} is {role} and works as {words_of(trade)['av']}."
            other_places = tuple(place for place in PLACES if place != person.home)
            other_trades = tuple(other for other in TRADES if other != person.trade)
            yield held_out(fact) or held_out(home), Asked(f"Where does {role} live?", person.home, where, other_places)
            yield (
                held_out(fact) or held_out(trade),
                Asked(f"What is the trade of {role}?", person.trade, what, other_trades),
            )


def _school() -> Iterator[tuple[bool, Asked]]:
    """Days, months and opposites, and whether each is held out."""
    for cycle, kind in ((DAYS, "day"), (MONTHS, "month")):
        for item in cycle:
            following = after(cycle, item)
            held = hashed(kind, item) < 20
            wrong = tuple(other for other in cycle if other not in (item, following))
            yield held, Asked(f"Which {kind} comes after {item}?", following, f"After {item} comes {following}.", wrong)
            yield (
                held,
                Asked(f"Which {kind} comes before {following}?", item, f"Before {following} comes {item}.", wrong),
            )
    words = [word for pair in OPPOSITES for word in pair]
    for pair in OPPOSITES:
        held = hashed("opposite", *pair) < 20
        for one, other in (pair, pair[::-1]):
            wrong = tuple(word for word in words if word not in pair)
            sentence = f"The opposite of {one} is {other}."
            yield held, Asked(f"What is the opposite of {one}?", other, sentence, wrong)


def sum_held_out(first: int, sign: str, second: int) -> bool:
    return hashed("sum", str(first), sign, str(second)) < 20


def sum_question(first: int, sign: str, second: int) -> Asked:
    """A sum; the wrong choices are near the right one."""
    answer = result(first, sign, second)
    near = tuple(str(number) for number in range(max(answer - 6, 0), answer + 7) if number != answer)
    text = f"What is {first} {SIGNS[sign]} {second}?"
    return Asked(text, str(answer), f"{first} {SIGNS[sign]} {second} is {answer}.", near)


def _sums() -> Iterator[tuple[bool, Asked]]:
    for first in range(1, 11):
        for second in range(1, 11):
            sums = [(first, "+", second), (first + second, "-", first)]
            sums += [(first, "*", second)] if first <= 5 else []
            for one in sums:
                yield sum_held_out(*one), sum_question(*one)


def category_question(random: Random) -> Asked:
    """Which of these is an animal? It needs no fact, only the kinds of things: it teaches what choices are."""
    sort = random.choice(tuple(CATEGORIES))
    answer = random.choice(CATEGORIES[sort])
    wrong = tuple(random.choice(words) for other, words in CATEGORIES.items() if other != sort)
    return Asked(f"Which of these is {sort}?", answer, f"{answer} is {sort}.", wrong, open=False)


def letter_question(random: Random) -> Asked:
    """Which letter belongs to the goat? The answer can be read off the choices."""
    words = CATEGORIES[random.choice(tuple(CATEGORIES))]
    answer = random.choice(words)
    wrong = tuple(word for word in words if word != answer)
    return Asked(f"Which letter belongs to {answer}?", answer, "", wrong, open=False)


class Pools(NamedTuple):
    """The questions of one side of the split, by kind; a fact's questions come as a list of phrasings each."""

    values: tuple[list[Asked], ...]
    relations: tuple[tuple[list[Asked], ...], ...]
    subjects: tuple[list[Asked], ...]
    two_steps: tuple[Asked, ...]
    school: tuple[Asked, ...]
    sums: tuple[Asked, ...]


def _pools(held: bool) -> Pools:
    facts = [fact for fact in FACTS if held_out(fact) == held]
    return Pools(
        tuple(value_questions(fact) for fact in facts),
        tuple(
            tuple(value_questions(fact) for fact in facts if fact.relation == relation)
            for relation in RELATIONS
            if len({fact.value for fact in facts if fact.relation == relation}) >= 4
        ),
        tuple(forms for fact in facts if (forms := subject_questions(fact))),
        tuple(asked for side, asked in _two_steps() if side == held),
        tuple(asked for side, asked in _school() if side == held),
        tuple(asked for side, asked in _sums() if side == held),
    )


TRAINING = _pools(held=False)
HELD_OUT = _pools(held=True)


def draw(random: Random, pools: Pools = TRAINING) -> Asked:
    """Any question of that side of the split, mostly about single facts."""
    kind = random.choices(("values", "subjects", "two_steps", "school", "sums"), (56, 28, 6, 5, 5))[0]
    drawn = random.choice(getattr(pools, kind))
    return drawn if isinstance(drawn, Asked) else random.choice(drawn)


def draw_choice(random: Random, pools: Pools = TRAINING) -> Choice:
    """Any question with choices; in training, one in three only teaches what choices and letters are."""
    if pools is TRAINING and random.random() < 1 / 3:
        return choice(random, random.choice((category_question, letter_question))(random))
    return choice(random, draw(random, pools))


def in_full(made: Choice) -> tuple[str, str]:
    """The question when it asks for the choice and its letter, and that answer: `goat=A`.

    A small model learns to copy this long before it can name the letter alone, and then learns that sooner.
    """
    return made.text.replace(INSTRUCTION, IN_FULL), f"{made.asked.answer}={made.letter}"


def draw_match(random: Random, pools: Pools = TRAINING) -> list[tuple[str, str]]:
    """Several questions on one list of choices, and the letter of each; the list stands in the first question.

    It asks for the binding of choice and letter several times in few words: small models learn that slowly.
    """
    several = random.choice(pools.relations)
    answers: dict[str, str] = {}
    while len(answers) < 4:
        asked = random.choice(random.choice(several))
        answers.setdefault(asked.answer, asked.text)
    letter_of = dict(zip(answers, LETTERS, strict=True))
    turns = [(text, letter_of[answer]) for answer, text in answers.items()]
    turns += [(f"Which letter belongs to {answer}?", letter_of[answer]) for answer in random.sample(list(answers), 4)]
    random.shuffle(turns)
    return [(with_choices(turns[0][0], list(answers)), turns[0][1]), *turns[1:]]


def draw_open(random: Random, pools: Pools = TRAINING) -> Asked:
    """Any question that has one answer without choices."""
    while not (asked := draw(random, pools)).open:
        pass
    return asked


# --- pages of the corpus, and the examination -------------------------------------------------------------------------


def quiz(random: Random, questions: int = 6) -> str:
    """A page of questions with their answers below them, none of them held out; the half has choices."""
    parts = []
    for _ in range(questions):
        if random.random() < 0.5:
            made = draw_choice(random)
            text, reply = in_full(made) if random.random() < 0.5 else (made.text, made.letter)
            parts.append(f"{text}\n{reply}")
        else:
            asked = draw_open(random)
            parts.append(f"{asked.text}\n{random.choice((asked.sentence, asked.answer))}")
    return "\n\n".join(parts)


def matching(random: Random) -> str:
    """A page of two lists of choices, several questions on each, none of them held out."""
    return "\n\n".join("\n".join(f"{text}\n{letter}" for text, letter in draw_match(random)) for _ in range(2))


def held_out_choices(two_steps: int = 20, school: int = 14, sums: int = 16) -> list[Choice]:
    """The evaluation with choices, always the same.

    It has each held-out fact in two phrasings of both directions, and some of the rest.
    """
    random = seeded_generator("examination with choices")
    asked = [one for forms in (*HELD_OUT.values, *HELD_OUT.subjects) for one in random.sample(forms, 2)]
    for pool, count in ((HELD_OUT.two_steps, two_steps), (HELD_OUT.school, school), (HELD_OUT.sums, sums)):
        asked += random.sample(pool, min(count, len(pool)))
    return [choice(random, one) for one in asked]


def held_out_answers(sums: int = 10) -> list[Asked]:
    """The open examination, always the same: each held-out fact once, and some sums."""
    random = seeded_generator("open examination")
    asked = [random.choice(forms) for forms in HELD_OUT.values]
    return asked + random.sample(HELD_OUT.sums, min(sums, len(HELD_OUT.sums)))
