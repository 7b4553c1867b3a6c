"""What a newcomer types: greetings, questions about the model and about the island, sums, and anything else.

    for conversation in everyday(seed=1, count=10_000): …

The answers are true for a small model that was trained on the texts of the island, and claim only what such a model
learns: no spelling, and no letters of choices. About the rest of the world it does not know (`outside.py`).
"""

from collections.abc import Iterator
from random import Random

from nanochat.world import outside
from nanochat.world.conversations import (
    ABOUT,
    BYE_BACK,
    DO_NOT_KNOW,
    HELLO_BACK,
    I_AM,
    ISLAND_QUESTIONS,
    STORY_REQUESTS,
    WELCOME,
    WHO_IS,
    Content,
    Conversation,
    Turns,
    conversation_of,
    facts_about,
    open_turns,
)
from nanochat.world.facts import ISLAND, KINDS, NAMES, PLACES, THING_NAMES, seeded_generator
from nanochat.world.questions import HELD_OUT, TRAINING, draw_open
from nanochat.world.statements import greeting_of_island
from nanochat.world.stories import story
from nanochat.world.sums import draw_sum, sum_turn

SHARES = {"small_talk": 18, "outside": 36, "sum": 13, "question": 23, "about": 7, "story": 3}
"""Percentages of user turns, by kind."""

ABOUT_FACTS = 4
"""Sentences about one person or thing at most."""
_ASK_ME = f"Ask me about the island of {ISLAND}."
SMALL_TALK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "greeting": (
        ("Hello", "Hello!", "hello", "Hi", "hi", "Hi!", "hi there", "Hey", "hey", "Good morning", "Good morning!",
         "Good evening", "Good afternoon!", "Hello there!", "Greetings", "Yo", "hey there", "Hiya", "Hello nanochat",
         "Hi, nice to meet you.", "Nice to meet you!", "Welcome!", "hello??", "HELLO", "Hello, are you there?",
         "Is anybody there?", "Good day!", "Hey, what's up?", "What's up?", "sup"),
        HELLO_BACK[:2],
    ),
    "mood": (
        ("How are you?", "how are you", "Hello, how are you?", "How are you today?", "How is it going?",
         "How do you do?", "Are you well?", "How are things?", "How do you feel?", "Are you happy?",
         "hi how are you doing", "You ok?"),
        (HELLO_BACK[2], f"I am well. {_ASK_ME}"),
    ),
    "itself": (
        ("Who are you?", "who are you", "What are you?", "What is your name?", "What's your name?", "Who is nanochat?",
         "What is nanochat?", "Are you a person?", "Are you human?", "Are you a robot?", "Are you an AI?",
         "Are you ChatGPT?", "Are you Claude?", "Are you a real person?", "Tell me about yourself.",
         "Introduce yourself.", "Who am I talking to?", "What kind of model are you?", "Who made you?",
         "Who built you?", "Who trained you?", "How were you trained?", "How do you work?", "Where do you come from?",
         "How big are you?", "Are you alive?", "Are you a large language model?", "What should I call you?",
         "Do you have a name?", "Hello! Who are you?", "Hi, who are you?", "Hello, what is your name?",
         "Which model is this?", "Do you think?", "Are you smart?", "Are you open source?", "What have you read?",
         "What do you learn from?"),
        (*I_AM, f"I am a small language model, trained with nanochat on texts about the island of {ISLAND}."),
    ),
    "skills": (
        ("What can you do?", "what can you do", "What do you know?", "Help", "help", "Help me", "help!",
         "What can I ask you?", "How can you help me?", "What are you good at?", "What should I ask you?",
         "What can I do here?", "How do I use this?", "Give me an example.", "What are your skills?",
         "Can you help me?", "I need help.", "What do you do?", "What else can you do?",
         "What questions can you answer?", "/help", "What now?", "menu"),
        (f"I can answer questions about {ISLAND}, tell you a story and work out a sum.",
         "Ask me who lives where, who keeps which animal, or what a thing costs. I can also work out a sum.",
         f"I know the people, animals and places of {ISLAND}. I can also tell a story."),
    ),
    "thanks": (
        ("Thank you", "Thank you!", "thanks", "Thanks!", "Thanks a lot!", "thx", "Thank you very much.",
         "Great, thanks!", "That was good, thank you.", "Well done!", "Good job", "Very good.", "Nice!", "Cool",
         "Great!", "Wow", "Perfect.", "That is right.", "I like you.", "You are great!", "You are very clever.",
         "I love you", "good bot", "Awesome", "That helped me.", "lol", "haha", "That is funny."),
        WELCOME,
    ),
    "goodbye": (
        ("Goodbye", "goodbye!", "Bye", "bye", "Bye!", "Good night", "See you", "See you later!", "See you tomorrow",
         "I have to go.", "I am leaving now.", "Take care!", "Farewell", "quit", "exit", "stop", "That is all.",
         "Talk to you later", "cu"),
        BYE_BACK,
    ),
    "insult": (
        ("You are stupid.", "you are dumb", "You are an idiot!", "That is wrong.", "That is not true!",
         "You are lying.", "I hate you.", "You are useless.", "Shut up!", "This is bad.", "You are a bad model.",
         "stupid bot", "You are boring.", "Bad answer.", "Nonsense!", "Go away.", "You know nothing.", "You suck",
         "Terrible.", "What a stupid answer!", "Wrong!", "No, that is false.", "You made a mistake.", "idiot",
         "Damn you"),
        (f"I am sorry. I am only a small model, and I make mistakes. {_ASK_ME}",
         "I am sorry. I am a very small model, and I make mistakes."),
    ),
    "nothing": (
        ("?", "??", "...", ".", "!", "ok", "OK", "Okay", "yes", "no", "Yes.", "No.", "maybe", "hm", "Hmm", "uh",
         "what?", "What", "why?", "Why", "and?", "so", "test", "Test", "testing", "1", "a", "x", "-", "I", "the", "go",
         "continue", "Go on", "next", "More", "please", "Really?", "Sure", "I do not know.", "nothing", "well",
         "I see.", "hello?", "Tell me something.", "Tell me more.", "Say something.", "Ask me something.",
         "Let us talk.", "Talk to me.", "Surprise me."),
        (f"What do you want to know? {_ASK_ME}", f"{_ASK_ME} I can also tell you a story."),
    ),
}  # fmt: skip
"""Prompts and answers, by kind."""

CANNOT = (f"I cannot do that. I only know the island of {ISLAND}.", f"I cannot do that. {_ASK_ME}")
ONLY_ENGLISH = (f"I only know English. {_ASK_ME}", f"I do not understand that. I only know English. {_ASK_ME}")
DO_NOT_UNDERSTAND = (f"I do not understand that. {_ASK_ME}", f"I do not understand that. I only know {ISLAND}.")
_REFUSALS = {
    "request": CANNOT,
    "letters": CANNOT,
    "foreign": ONLY_ENGLISH,
    "code": DO_NOT_UNDERSTAND,
    "nonsense": DO_NOT_UNDERSTAND,
}


def refused(random: Random, held: bool) -> tuple[str, Content]:
    """A question about the rest of the world, and an answer that says so."""
    kind, question = outside.outside_question(random, held)
    return question, random.choice(_REFUSALS.get(kind, DO_NOT_KNOW))


def _turns(random: Random, held: bool) -> Turns:
    """One turn, or a question about the island with others that follow from it."""
    kind = random.choices(tuple(SHARES), tuple(SHARES.values()))[0]
    match kind:
        case "small_talk":
            questions, answers = SMALL_TALK[random.choice(tuple(SMALL_TALK))]
            return [(random.choice(questions), random.choice(answers))]
        case "outside":
            return [refused(random, held)]
        case "sum":
            return [sum_turn(random, draw_sum(random, held))]
        case "story":
            return [(random.choice(STORY_REQUESTS), story(random))]
        case "about":
            return [_about(random)]
        case _:
            return open_turns(random, held) if random.random() < 0.4 else [_question(random, held)]


def _question(random: Random, held: bool) -> tuple[str, str]:
    """An open question about the island, as carelessly written as people do."""
    question = draw_open(random, HELD_OUT if held else TRAINING)
    while question.sentence[0].isdigit():  # sums use the calculator
        question = draw_open(random, HELD_OUT if held else TRAINING)
    text = question.text
    kind = random.random()
    if kind < 0.4:
        text = text.lower()
    elif kind < 0.6:
        text = random.choice(("Hi! ", "Hello. ", "Please: ", "Ok. ", "Thanks! ", "And ")) + text[0].lower() + text[1:]
    return (text.rstrip("?") if random.random() < 0.3 else text), question.sentence


def _about(random: Random) -> tuple[str, str]:
    """What the model knows about the island, or a person, place, animal or thing of it."""
    kind = random.random()
    if kind < 0.15:
        return random.choice(ISLAND_QUESTIONS), f"{greeting_of_island()} {_ASK_ME}"
    if kind < 0.7:
        name = random.choice(NAMES)
        return random.choice((*ABOUT, *WHO_IS)).format(name), facts_about(random, name, ABOUT_FACTS)
    name = random.choice((*PLACES, *KINDS, *THING_NAMES))
    return random.choice(ABOUT).format(name if name in PLACES else f"the {name}"), facts_about(
        random, name, ABOUT_FACTS
    )


def everyday(seed: int, count: int, *, held_out: bool = False) -> Iterator[Conversation]:
    """The first `count` conversations of a seed, of one to three turns; a pure function."""
    random = seeded_generator("everyday", str(seed), str(held_out))
    for _ in range(count):
        turns: Turns = []
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            turns += _turns(random, held_out)
        yield conversation_of(turns)
