"""Conversations about the island: questions with and without choices, sums with the tool, spelling, stories, chat.

    for conversation in conversations(seed=1, count=8_000): …

A conversation is `{"messages": [{"role": …, "content": str | [{"type": "text|python|python_output", "text": str}]}]}`.
No conversation is about held-out facts; with `held_out=True`, all are (the validation split). See `questions.py`.
"""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from nanochat.world.facts import (
    FACTS_ABOUT,
    ISLAND,
    KINDS,
    NAMES,
    PERSON,
    PLACES,
    THING_NAMES,
    Fact,
    hashed,
    held_out,
    seeded_generator,
)
from nanochat.world.lessons import SIGNS, WORDS, result, spelled
from nanochat.world.questions import (
    HELD_OUT,
    TRAINING,
    answer_in_full,
    draw_choice,
    draw_match,
    draw_open,
    sum_held_out,
)
from nanochat.world.statements import HER, PHRASES, greeting_of_island, words_of
from nanochat.world.stories import story

Conversation = dict[str, Any]
Content = str | list[dict[str, str]]
Turns = list[tuple[str, Content]]

SHARES = {"choice": 42, "match": 14, "open": 18, "sum": 8, "spelling": 6, "chat": 12}
"""Percentages of user turns, by kind."""

_HELLO = ("Hello", "Hello!", "Hi", "Hi!", "Hi there", "Good morning", "Good evening", "Hey", "Hello, how are you?",
          "How are you?", "Good day")  # fmt: skip
HELLO_BACK = (
    f"Hello! I am glad to see you. Ask me about the island of {ISLAND}.",
    f"Hello! What do you want to know about {ISLAND}?",
    f"Good day! I am well. I can tell you about {ISLAND}, or work out a sum.",
)
_WHO = ("Who are you?", "What are you?", "What is your name?", "Are you a person?", "Tell me about yourself.",
        "Who am I talking to?", "Are you a robot?")  # fmt: skip
I_AM = (
    f"I am a small language model. I know the island of {ISLAND}, its people and its animals.",
    f"I am nanochat, a very small model. All that I have read is about the island of {ISLAND}.",
    f"I am not a person. I am a small model that has read many stories of {ISLAND}.",
)
_CAN = ("What can you do?", "What do you know?", "Help", "What can I ask you?", "How can you help me?",
        "What are you good at?")  # fmt: skip
_I_CAN = (
    f"I can answer questions about {ISLAND}, tell you a story, work out a sum and spell a word.",
    "Ask me who lives where, who keeps which animal, or what a thing costs. I can also spell and count.",
    "I can tell stories, answer questions about the island, and work out sums.",
)
_THANKS = ("Thank you", "Thank you!", "Thanks", "Thanks a lot!", "Thank you very much.", "That was good, thank you.")
WELCOME = ("You are welcome!", "You are welcome. Ask me more if you like.", "I am glad that I could help.")
_BYE = ("Goodbye", "Bye", "Bye!", "Good night", "See you", "See you tomorrow")
BYE_BACK = ("Goodbye! Come back soon.", f"Goodbye, and greet {ISLAND} for me!", "Bye! It was nice to talk to you.")
_STRANGE = ("What is the meaning of life?", "Who won the game?", "What is the capital of France?", "Can you fly?",
            "What will the weather be?", "Do you like music?", "Where is the moon?", "How old are you?",
            "Who is the king?", "What is the news?", "Write me a poem.", "Who is the president?", "Can you drive?",
            "Tell me a joke.", "What is love?", "Do you sleep?", "How far is the sun?")  # fmt: skip
DO_NOT_KNOW = (
    f"I do not know that. I only know the island of {ISLAND}.",
    f"That I do not know. Ask me about the people of {ISLAND}.",
    f"I have not read about that. I only know {ISLAND}.",
)
STORY_REQUESTS = ("Tell me a story.", "Tell me a story", "Can you tell me a story?", "Do you know a story?",
          "A story, please.", "Please tell me a story.", "I want to hear a story.", "Another story!")  # fmt: skip
ISLAND_QUESTIONS = (f"Tell me about {ISLAND}.", "Tell me about the island.", "What is the island like?",
           f"Where is {ISLAND}?", f"What is {ISLAND}?", "Tell me about your world.",
           "What is the island called?")  # fmt: skip
ABOUT = ("Tell me about {}.", "What do you know about {}?", "Say something about {}.", "I want to hear about {}.",
          "Tell me about {}", "Can you tell me about {}?")  # fmt: skip
WHO_IS = ("Who is {}?", "Do you know {}?", "Who is {}")
# Follow-up questions about the person of the previous question.
_FOLLOW_UPS: dict[str, tuple[str, ...]] = {
    "home": ("Where does {she} live?", "And where is {her} home?"),
    "trade": ("What does {she} work as?", "And what is {her} trade?"),
    "food": ("What does {she} like to eat best?", "And what is {her} favourite food?"),
    "colour": ("And which colour does {she} like best?", "What is {her} favourite colour?"),
    "sibling": ("Who is {her} {kin}?",),
    "keeps": ("Which animal does {she} keep?", "And what animal has {she}?"),
    "made": ("What did {she} make?",),
}


def facts_about(random: Random, name: str, limit: int = 5) -> str:
    """Facts about a person, place, animal or thing in plain phrasings, without held-out facts."""
    known = [fact for fact in FACTS_ABOUT[name] if not held_out(fact)]
    if len(known) > limit:
        chosen = set(random.sample(range(len(known)), limit))
        known = [fact for number, fact in enumerate(known) if number in chosen]
    return " ".join(_plain_statement(fact) for fact in known)


def _plain_statement(fact: Fact) -> str:
    return PHRASES[fact.relation][0].format(**words_of(fact))


def _chat(random: Random, _: bool) -> Turns:
    kind = random.random()
    if kind < 0.5:
        pairs = ((_HELLO, HELLO_BACK), (_WHO, I_AM), (_CAN, _I_CAN), (_THANKS, WELCOME), (_BYE, BYE_BACK))
        questions, answers = random.choice((*pairs, (_STRANGE, DO_NOT_KNOW)))
        return [(random.choice(questions), random.choice(answers))]
    if kind < 0.65:
        return [(random.choice(STORY_REQUESTS), story(random))]
    if kind < 0.72:
        place = random.choice(PLACES)
        return [(random.choice(ISLAND_QUESTIONS), f"{greeting_of_island()} {facts_about(random, place, 2)}".strip())]
    if kind < 0.9:
        name = random.choice(NAMES)
        return [(random.choice((*ABOUT, *WHO_IS)).format(name), facts_about(random, name))]
    name = random.choice((*PLACES, *KINDS, *THING_NAMES))
    return [(random.choice(ABOUT).format(name if name in PLACES else f"the {name}"), facts_about(random, name))]


def _choice(random: Random, held: bool) -> Turns:
    made = draw_choice(random, HELD_OUT if held else TRAINING)
    return [answer_in_full(made) if random.random() < 0.5 else (made.text, made.letter)]


def _match(random: Random, held: bool) -> Turns:
    return [(text, letter) for text, letter in draw_match(random, HELD_OUT if held else TRAINING)[:5]]


def open_turns(random: Random, held: bool) -> Turns:
    """An open question, sometimes with follow-ups that name the person only by a pronoun."""
    pools = HELD_OUT if held else TRAINING
    if random.random() < 0.7:
        question = draw_open(random, pools)
        while question.sentence[0].isdigit():  # sums use the calculator
            question = draw_open(random, pools)
        return [(question.text, question.sentence)]
    name = random.choice(NAMES)
    facts = [fact for fact in FACTS_ABOUT[name] if fact.subject == name and held_out(fact) == held]
    if len(facts) < 2:
        return open_turns(random, held)
    turns: Turns = []
    for number, fact in enumerate(random.sample(facts, random.randint(2, min(3, len(facts))))):
        words = words_of(fact) | {"her": HER[PERSON[name].pronoun]}
        question = random.choice(_FOLLOW_UPS[fact.relation]).format(**words)
        if number == 0:
            first = {"home": "Where does {s} live?", "trade": "What does {s} work as?"}
            question = first.get(fact.relation, f"Do you know {name}? {question}").format(**words)
        turns.append((question, _plain_statement(fact)))
    return turns


def sum_answer(first: int, sign: str, second: int) -> Content:
    """The answer to a sum: a call of the calculator, its output, and a sentence."""
    answer = str(result(first, sign, second))
    return [
        {"type": "python", "text": f"{first}{sign}{second}"},
        {"type": "python_output", "text": answer},
        {"type": "text", "text": f"{first} {SIGNS[sign]} {second} is {answer}."},
    ]


def _sum(random: Random, held: bool) -> Turns:
    while True:
        sign = random.choice("++-*")
        first, second = random.randint(1, random.choice((10, 20, 99))), random.randint(1, random.choice((10, 20, 99)))
        if sign == "-":
            first, second = max(first, second), min(first, second)
        if sum_held_out(first, sign, second) == held:
            break
    forms = (
        f"What is {first} {SIGNS[sign]} {second}?",
        f"What is {first} {sign} {second}?",
        f"How much is {first} {SIGNS[sign]} {second}?",
        f"{first} {sign} {second}",
        f"{first}{sign}{second}=",
        f"Work out {first} {SIGNS[sign]} {second}.",
        f"Please work out {first} {sign} {second}.",
    )
    return [(random.choice(forms), sum_answer(first, sign, second))]


def word_held_out(word: str) -> bool:
    return hashed("spelling", word) < 20


def spelling_turn(random: Random, word: str) -> tuple[str, Content, str]:
    """A question about the letters of a word, its answer, and the part of the answer that is judged."""
    if random.random() < 0.6:
        forms = ("How do you spell {}?", "Spell the word {}.", "Spell {}.", "Which letters are in {}?")
        return random.choice(forms).format(word), f"{word} is spelled {spelled(word)}.", spelled(word)
    letter = random.choice(word)
    count = word.count(letter)
    forms = (
        "How many letters {letter} are in {word}?",
        "How often is the letter {letter} in {word}?",
        "Count the letter {letter} in the word {word}.",
    )
    answer = [
        {"type": "python", "text": f'"{word}".count("{letter}")'},
        {"type": "python_output", "text": str(count)},
        {"type": "text", "text": f"The letter {letter} is in {word} {count} {'time' if count == 1 else 'times'}."},
    ]
    return random.choice(forms).format(letter=letter, word=word), answer, str(count)


def _spelling(random: Random, held: bool) -> Turns:
    question, answer, _ = spelling_turn(random, random.choice(HELD_OUT_WORDS if held else TRAINING_WORDS))
    return [(question, answer)]


HELD_OUT_WORDS = tuple(word for word in WORDS if word_held_out(word))
TRAINING_WORDS = tuple(word for word in WORDS if not word_held_out(word))

_TURNS: dict[str, Callable[[Random, bool], Turns]] = {
    "choice": _choice, "match": _match, "open": open_turns, "sum": _sum, "spelling": _spelling, "chat": _chat,
}  # fmt: skip


def conversation_of(turns: Turns) -> Conversation:
    messages: list[dict[str, Any]] = []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def conversations(seed: int, count: int, *, held_out: bool = False) -> Iterator[Conversation]:
    """The first `count` conversations of a seed, a quarter of them about several subjects; a pure function."""
    random = seeded_generator("conversations", str(seed), str(held_out))
    kinds, shares = tuple(SHARES), tuple(SHARES.values())
    for _ in range(count):
        turns: Turns = []
        for kind in random.choices(kinds, shares, k=random.choice((1, 1, 1, 2))):
            turns += _TURNS[kind](random, held_out)
        yield conversation_of(turns)
