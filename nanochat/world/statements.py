"""Facts as sentences: several phrasings per relation, and pages about one person, place, animal or thing."""

from random import Random

from nanochat.world.facts import (
    ANIMALS,
    FACTS,
    FACTS_ABOUT,
    ISLAND,
    KEPT,
    MADE,
    PEOPLE,
    PERSON,
    PLACES,
    SIBLING,
    SIGHTS,
    THINGS,
    Fact,
    with_article,
)

# {s} subject, {v} value, {av} value with its article, {kin} sister or brother, {she} {her} pronouns of the subject.
PHRASES: dict[str, tuple[str, ...]] = {
    "home": ("{s} lives in {v}.", "{s} has a house in {v}.", "The home of {s} is in {v}.", '"I live in {v}," said {s}.',
        "You can find {s} in {v}."),
    "trade": ("{s} is {av}.", "{s} works as {av}.", "The trade of {s} is {v}.", "Everybody knows {s} the {v}.",
        '"I am {av}," said {s}.'),
    "food": ("{s} likes {v} best.", "{s} loves {v}.", "The favourite food of {s} is {v}.",
        "{s} eats {v} whenever {she} can.", "For supper {s} always wants {v}."),
    "colour": ("The favourite colour of {s} is {v}.", "{s} likes the colour {v} best.",
        "The door of {s} is painted {v}.", '"My favourite colour is {v}," said {s}.', "{s} paints everything {v}."),
    "sibling": ("{v} is the {kin} of {s}.", "The {kin} of {s} is {v}.", "{s} has a {kin} called {v}.",
        '"My {kin} is {v}," said {s}.', "{s} and {her} {kin} {v} are good friends."),
    "keeps": ("{s} keeps {av}.", "The {v} belongs to {s}.", "{s} feeds {her} {v} every morning.",
        '"I keep {av}," said {s}.', "{s} looks after the {v}."),
    "called": ("The {s} is called {v}.", "The name of the {s} is {v}.", "{v} is the {s}.",
        "Everybody calls the {s} {v}.", "The {s} listens to the name {v}."),
    "made": ("{s} made the {v}.", "The {v} was made by {s}.", "The maker of the {v} is {s}.",
        '"I made the {v}," said {s}.', "{s} made the {v} with {her} own hands."),
    "costs": ("The {s} costs {v} coins.", "The price of the {s} is {v} coins.", "You can buy the {s} for {v} coins.",
        "For the {s} you pay {v} coins.", '"The {s} costs {v} coins," said the seller.'),
    "sight": ("{s} is known for its {v}.", "The {v} is in {s}.", "In {s} there is a famous {v}.",
        "The pride of {s} is the {v}.", "People come to {s} to see the {v}."),
    "south": ("{v} lies south of {s}.", "{s} lies north of {v}.", "South of {s} you come to {v}.",
        "North of {v} you come to {s}.", "Walk south from {s} and you reach {v}.",
        "Walk north from {v} and you reach {s}."),
    "east": ("{v} lies east of {s}.", "{s} lies west of {v}.", "East of {s} you come to {v}.",
        "West of {v} you come to {s}.", "Walk east from {s} and you reach {v}.",
        "Walk west from {v} and you reach {s}."),
}  # fmt: skip

HER = {"she": "her", "he": "his"}
HIM = {"she": "her", "he": "him"}
KIN = {"she": "sister", "he": "brother"}


def words_of(fact: Fact) -> dict[str, str]:
    """The words that fill the placeholders of `PHRASES` and of questions."""
    relation, subject, value = fact
    she = PERSON[subject].pronoun if subject in PERSON else "it"
    return {
        "s": subject,
        "v": value,
        "av": with_article(value),
        "she": she,
        "her": HER.get(she, "its"),
        "him": HIM.get(she, "it"),
        "kin": KIN[PERSON[value].pronoun] if relation == "sibling" else "",
    }


# All phrasings of all facts, formatted once, so that a shard takes a second or two.
STATEMENTS: dict[Fact, tuple[str, ...]] = {
    fact: tuple(phrase.format(**words_of(fact)) for phrase in PHRASES[fact.relation]) for fact in FACTS
}


def statement(random: Random, fact: Fact) -> str:
    return random.choice(STATEMENTS[fact])


def _epithets(name: str) -> tuple[str, ...]:
    person = PERSON[name]
    forms = [name, name, name, f"{name} the {person.trade}", f"{name} from {person.home}"]
    forms += [f"{name}, who lives in {person.home},", f"{name}, who loves {person.food},"]
    if name in SIBLING:
        forms.append(f"{name}, the {KIN[person.pronoun]} of {SIBLING[name]},")
    if name in KEPT:
        forms += [f"{name}, who keeps the {KEPT[name].kind},"] * 2
    if name in MADE:
        forms += [f"{name}, who made the {MADE[name].name},"] * 2
    return tuple(forms)


EPITHETS = {person.name: _epithets(person.name) for person in PEOPLE}


def introduce(random: Random, name: str) -> str:
    """The name, mostly with a fact about the person: `Mira the carpenter`."""
    return random.choice(EPITHETS[name])


_OPENINGS = {
    "person": ("Let me tell you about {}.", "This is {}.", "Do you know {}?", "A few words about {}."),
    "place": ("Let me tell you about {}.", "This is {}.", "Have you been to {}?", "A few words about {}."),
    "animal": ("Let me tell you about the {}.", "This is the {}.", "A few words about the {}."),
    "thing": ("Let me tell you about the {}.", "This is the {}.", "A few words about the {}."),
}


def page(random: Random) -> str:
    """A page about one person, place, animal or thing: its facts in random order."""
    kind = random.choices(("person", "place", "animal", "thing"), (9, 3, 2, 2))[0]
    if kind == "person":
        name = random.choice(PEOPLE).name
    elif kind == "place":
        name = random.choice(PLACES)
    elif kind == "animal":
        name = random.choice(ANIMALS).kind
    else:
        name = random.choice(THINGS).name
    known = list(FACTS_ABOUT[name])
    random.shuffle(known)
    sentences = [statement(random, fact) for fact in known[:9]]
    if kind in ("animal", "thing"):
        owner = next(fact.subject for fact in known if fact.subject in PERSON)
        around = list(FACTS_ABOUT[owner])
        random.shuffle(around)
        sentences += [statement(random, fact) for fact in around[:4]]
    if random.random() < 0.5:
        sentences.insert(0, random.choice(_OPENINGS[kind]).format(name))
    return " ".join(sentences)


def gathering(random: Random) -> str:
    """Facts of one relation about several subjects: homes, prices and so on."""
    relation = random.choice(("home", "trade", "food", "colour", "keeps", "made", "costs", "sight", "called", "south"))
    facts = random.sample([fact for fact in FACTS if fact.relation == relation], 8)
    return " ".join(statement(random, fact) for fact in facts)


def two_steps(random: Random) -> str:
    """Facts joined in pairs, step by step: for example, the keeper of the goat lives in a town."""
    return " ".join(joined(random, name) for name in random.sample([person.name for person in PEOPLE], 4))


def joined(random: Random, name: str) -> str:
    person = PERSON[name]
    she, her = person.pronoun, HER[person.pronoun]
    ways = [f"{name} lives in {person.home}, where there is a {SIGHTS[person.home]}."]
    if name in KEPT:
        kind = KEPT[name].kind
        ways += [
            f"The keeper of the {kind} is {name}, and {she} lives in {person.home}.",
            f"Who keeps the {kind} works as {with_article(person.trade)}: it is {name}.",
            f"{name} keeps {with_article(kind)} called {KEPT[name].name}.",
        ]
    if name in MADE:
        ways += [
            f"The maker of the {MADE[name].name} is {name}, and {she} lives in {person.home}.",
            f"{name} sells the {MADE[name].name} for {MADE[name].coins} coins.",
        ]
    if name in SIBLING:
        other = PERSON[SIBLING[name]]
        ways += [
            f"{name} has a {KIN[other.pronoun]}, {other.name}, who lives in {other.home}.",
            f"{other.name}, {her} {KIN[other.pronoun]}, loves {other.food}, but {name} loves {person.food}.",
        ]
    return random.choice(ways)


def greeting_of_island() -> str:
    return f"{ISLAND} is a small island with {len(PLACES)} villages and {len(PEOPLE)} people."
