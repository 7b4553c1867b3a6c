"""Questions about the world, open and with four choices, and which of them are held out.

A fifth of the facts, sums, days and opposites is held out, by hash and independent of the seed. No quiz page of the
corpus and no training conversation asks about them, in any direction or phrasing. The statements and stories of the
corpus contain these facts as often as all others. So a right answer needs the fact from reading, the form of the
question from other facts, and the binding of choice to letter: it cannot be memorized from an earlier question. The
evaluation (`held_out_choices`, `held_out_answers`) asks about held-out facts only.

The evaluation has each question with choices in two forms. With *full answers*, the model's answer is the most likely
one of four sentences, so only its knowledge counts. With *letters*, the question contains the choices and the answer is
`A` alone, so the model must also bind letters to choices, which small models learn late. Training has a third form
between the two: the choice with its letter, `goat=A`. Questions in two steps ("the keeper of the goat lives in …") are
held out if one of their facts is.
"""

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
    "a person": NAMES, "a place": PLACES, "a trade": TRADES, "a food": FOODS, "a colour": COLOURS, "an animal": KINDS,
    "a thing": THING_NAMES, "a day": DAYS, "a month": MONTHS,
}  # fmt: skip
LETTERS = ("A", "B", "C", "D")
INSTRUCTION = "Answer with the letter."
IN_FULL = "Answer in full."

# Questions for the value of a subject; {s} and {kin} as in `statements.PHRASES`.
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
# Questions for the subject of a value.
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


class Question(NamedTuple):
    """A question: its text, the short answer, the answer as a sentence, and candidates for wrong choices."""

    text: str
    answer: str
    sentence: str
    wrong: tuple[str, ...]
    open: bool = True
    """Whether it has exactly one answer without choices."""


class Choice(NamedTuple):
    """A question with four choices; `text` contains them, one per line, and `letter` is the answer."""

    text: str
    letter: str
    question: Question
    choices: tuple[str, ...]


def with_choices(question: str, choices: tuple[str, ...] | list[str], letters: tuple[str, ...] = LETTERS) -> str:
    """The question, one line per choice with its letter, and the instruction.

    The letter follows the choice without a space, because small models copy what follows a match more easily than what
    precedes it.
    """
    lines = "".join(f"- {choice}={letter}\n" for choice, letter in zip(choices, letters, strict=False))
    return f"{question}\n{lines}{INSTRUCTION}"


def choice(random: Random, question: Question) -> Choice:
    """The question with four choices in random order; every letter is right equally often."""
    choices = random.sample(question.wrong, 3)
    right = random.randrange(4)
    choices.insert(right, question.answer)
    return Choice(with_choices(question.text, choices), LETTERS[right], question, tuple(choices))


# --- the questions of one fact ----------------------------------------------------------------------------------------


def value_questions(fact: Fact) -> list[Question]:
    """The question for the fact's value, in all phrasings."""
    words = words_of(fact)
    wrong = tuple(value for value in RELATIONS[fact.relation] if value not in (fact.value, fact.subject))
    if fact.relation == "sibling":  # otherwise the pronoun would reveal the answer
        wrong = tuple(name for name in wrong if PERSON[name].pronoun == PERSON[fact.value].pronoun)
    sentence = PHRASES[fact.relation][0].format(**words)
    return [Question(form.format(**words), fact.value, sentence, wrong) for form in ASK_VALUE[fact.relation]]


def subject_questions(fact: Fact) -> list[Question]:
    """The question for the fact's subject, in all phrasings; if it has several answers, it needs choices."""
    words = words_of(fact)
    same = [other for other in FACTS if other.relation == fact.relation]
    wrong = tuple(other.subject for other in same if other.value != fact.value and other.subject != fact.value)
    sentence = PHRASES[fact.relation][0].format(**words)
    forms = ASK_SUBJECT.get(fact.relation, ())
    return [Question(form.format(**words), fact.subject, sentence, wrong, fact.relation in UNIQUE) for form in forms]


def _two_steps() -> Iterator[tuple[bool, Question]]:
    """Whether one of two facts is held out, and the question that joins them."""
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
            live = Question(f"Where does {role} live?", person.home, where, other_places)
            work = Question(f"What is the trade of {role}?", person.trade, what, other_trades)
            yield held_out(fact) or held_out(home), live
            yield held_out(fact) or held_out(trade), work


def _school() -> Iterator[tuple[bool, Question]]:
    """Whether a question about days, months or opposites is held out, and the question."""
    for cycle, kind in ((DAYS, "day"), (MONTHS, "month")):
        for item in cycle:
            following = after(cycle, item)
            held = hashed(kind, item) < 20
            wrong = tuple(other for other in cycle if other not in (item, following))
            after_it, before_it = f"After {item} comes {following}.", f"Before {following} comes {item}."
            yield held, Question(f"Which {kind} comes after {item}?", following, after_it, wrong)
            yield held, Question(f"Which {kind} comes before {following}?", item, before_it, wrong)
    words = [word for pair in OPPOSITES for word in pair]
    for pair in OPPOSITES:
        held = hashed("opposite", *pair) < 20
        for one, other in (pair, pair[::-1]):
            wrong = tuple(word for word in words if word not in pair)
            sentence = f"The opposite of {one} is {other}."
            yield held, Question(f"What is the opposite of {one}?", other, sentence, wrong)


def sum_held_out(first: int, sign: str, second: int) -> bool:
    return hashed("sum", str(first), sign, str(second)) < 20


def sum_question(first: int, sign: str, second: int) -> Question:
    """A sum; wrong choices are close to the right one."""
    answer = result(first, sign, second)
    near = tuple(str(number) for number in range(max(answer - 6, 0), answer + 7) if number != answer)
    text = f"What is {first} {SIGNS[sign]} {second}?"
    return Question(text, str(answer), f"{first} {SIGNS[sign]} {second} is {answer}.", near)


def _sums() -> Iterator[tuple[bool, Question]]:
    for first in range(1, 11):
        for second in range(1, 11):
            sums = [(first, "+", second), (first + second, "-", first)]
            sums += [(first, "*", second)] if first <= 5 else []
            for one in sums:
                yield sum_held_out(*one), sum_question(*one)


def category_question(random: Random) -> Question:
    """Which of these is an animal? It needs no fact: it teaches what choices are."""
    sort = random.choice(tuple(CATEGORIES))
    answer = random.choice(CATEGORIES[sort])
    wrong = tuple(random.choice(words) for other, words in CATEGORIES.items() if other != sort)
    return Question(f"Which of these is {sort}?", answer, f"{answer} is {sort}.", wrong, open=False)


def letter_question(random: Random) -> Question:
    """Which letter belongs to the goat? The answer can be read from the choices."""
    words = CATEGORIES[random.choice(tuple(CATEGORIES))]
    answer = random.choice(words)
    wrong = tuple(word for word in words if word != answer)
    return Question(f"Which letter belongs to {answer}?", answer, "", wrong, open=False)


class Pools(NamedTuple):
    """The training questions or the held-out questions, by kind; the questions of a fact are lists of phrasings."""

    values: tuple[list[Question], ...]
    relations: tuple[tuple[list[Question], ...], ...]
    subjects: tuple[list[Question], ...]
    two_steps: tuple[Question, ...]
    school: tuple[Question, ...]
    sums: tuple[Question, ...]


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
        tuple(question for side, question in _two_steps() if side == held),
        tuple(question for side, question in _school() if side == held),
        tuple(question for side, question in _sums() if side == held),
    )


TRAINING = _pools(held=False)
HELD_OUT = _pools(held=True)


def draw(random: Random, pools: Pools = TRAINING) -> Question:
    """Draws a question from `pools`, mostly about a single fact."""
    kind = random.choices(("values", "subjects", "two_steps", "school", "sums"), (56, 28, 6, 5, 5))[0]
    drawn = random.choice(getattr(pools, kind))
    return drawn if isinstance(drawn, Question) else random.choice(drawn)


def draw_choice(random: Random, pools: Pools = TRAINING) -> Choice:
    """Draws a question with choices; in training, one in three only teaches choices and letters."""
    if pools is TRAINING and random.random() < 1 / 3:
        return choice(random, random.choice((category_question, letter_question))(random))
    return choice(random, draw(random, pools))


def answer_in_full(made: Choice) -> tuple[str, str]:
    """The question for the choice with its letter, and that answer: `goat=A`.

    A small model learns to copy this long before it learns to answer with the letter alone, and it helps there.
    """
    return made.text.replace(INSTRUCTION, IN_FULL), f"{made.question.answer}={made.letter}"


def draw_match(random: Random, pools: Pools = TRAINING) -> list[tuple[str, str]]:
    """Draws several questions about one list of choices, with the letter of each; the first contains the list.

    It trains the binding of choice and letter several times in few words, which small models learn slowly.
    """
    several = random.choice(pools.relations)
    answers: dict[str, str] = {}
    while len(answers) < 4:
        question = random.choice(random.choice(several))
        answers.setdefault(question.answer, question.text)
    letter_of = dict(zip(answers, LETTERS, strict=True))
    turns = [(text, letter_of[answer]) for answer, text in answers.items()]
    turns += [(f"Which letter belongs to {answer}?", letter_of[answer]) for answer in random.sample(list(answers), 4)]
    random.shuffle(turns)
    return [(with_choices(turns[0][0], list(answers)), turns[0][1]), *turns[1:]]


def draw_open(random: Random, pools: Pools = TRAINING) -> Question:
    """Draws a question that has exactly one answer without choices."""
    while not (question := draw(random, pools)).open:
        pass
    return question


# --- pages of the corpus, and the evaluation -------------------------------------------------------------------------


def quiz(random: Random, questions: int = 6) -> str:
    """A page of questions with their answers, none of them held out; half of them have choices."""
    parts = []
    for _ in range(questions):
        if random.random() < 0.5:
            made = draw_choice(random)
            text, reply = answer_in_full(made) if random.random() < 0.5 else (made.text, made.letter)
            parts.append(f"{text}\n{reply}")
        else:
            question = draw_open(random)
            parts.append(f"{question.text}\n{random.choice((question.sentence, question.answer))}")
    return "\n\n".join(parts)


def matching(random: Random) -> str:
    """A page of two lists of choices with several questions each, none of them held out."""
    return "\n\n".join("\n".join(f"{text}\n{letter}" for text, letter in draw_match(random)) for _ in range(2))


def held_out_choices(two_steps: int = 20, school: int = 14, sums: int = 16) -> list[Choice]:
    """The evaluation with choices, always the same.

    It has each held-out fact in two phrasings of both directions, and some of the rest.
    """
    random = seeded_generator("examination with choices")
    questions = [one for forms in (*HELD_OUT.values, *HELD_OUT.subjects) for one in random.sample(forms, 2)]
    for pool, count in ((HELD_OUT.two_steps, two_steps), (HELD_OUT.school, school), (HELD_OUT.sums, sums)):
        questions += random.sample(pool, min(count, len(pool)))
    return [choice(random, one) for one in questions]


def held_out_answers(sums: int = 10) -> list[Question]:
    """The open evaluation questions, always the same: each held-out fact once, and some sums."""
    random = seeded_generator("open examination")
    questions = [random.choice(forms) for forms in HELD_OUT.values]
    return questions + random.sample(HELD_OUT.sums, min(sums, len(HELD_OUT.sums)))
