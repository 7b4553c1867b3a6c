"""The facts of the small invented world: the island of Ollen, its people, places, animals and things.

These tables define the whole world and never change; a seed only chooses the phrasings. A fact is (relation, subject,
value), such as `Fact("home", "Mira", "Applegarth")`, and `FACTS` has each of them once.

A fifth of the facts is *held out* (`held_out`, by hash). The corpus states them like all others, but no document and no
training conversation asks about them. So a right answer about one of them shows that it was learned from statements.
"""

import hashlib
from itertools import pairwise
from random import Random
from typing import NamedTuple

ISLAND = "Ollen"


class Person(NamedTuple):
    """A person on the island; `pronoun` is `she` or `he`."""

    name: str
    pronoun: str
    home: str
    trade: str
    food: str
    colour: str


class Animal(NamedTuple):
    """An animal with its own name, and the person who keeps it."""

    kind: str
    name: str
    keeper: str


class Thing(NamedTuple):
    """A thing, the person who made it, and its price in coins."""

    name: str
    maker: str
    coins: int


class Fact(NamedTuple):
    """One fact; `relation` is one of `RELATIONS`."""

    relation: str
    subject: str
    value: str


PEOPLE = (
    Person("Mira", "she", "Reedham", "smith", "fish", "red"),
    Person("Tom", "he", "Stonebridge", "potter", "cherries", "blue"),
    Person("Una", "she", "Saltmouth", "fisher", "cherries", "black"),
    Person("Pell", "he", "Fernhill", "smith", "soup", "yellow"),
    Person("Ada", "she", "Applegarth", "gardener", "cake", "brown"),
    Person("Bram", "he", "Sandwick", "carpenter", "plums", "white"),
    Person("Cora", "she", "Highfold", "tailor", "nuts", "yellow"),
    Person("Dov", "he", "Foxdale", "weaver", "fish", "blue"),
    Person("Edda", "she", "Stonebridge", "miller", "porridge", "red"),
    Person("Finn", "he", "Applegarth", "potter", "porridge", "brown"),
    Person("Greta", "she", "Millby", "shepherd", "honey", "purple"),
    Person("Hugo", "he", "Gullrock", "weaver", "nuts", "white"),
    Person("Ida", "she", "Windmoor", "fisher", "plums", "black"),
    Person("Jory", "he", "Oakend", "doctor", "stew", "white"),
    Person("Kaja", "she", "Foxdale", "baker", "soup", "green"),
    Person("Leo", "he", "Highfold", "tailor", "bread", "black"),
    Person("Nell", "she", "Fernhill", "teacher", "cheese", "purple"),
    Person("Otto", "he", "Reedham", "baker", "pie", "yellow"),
    Person("Petra", "she", "Sandwick", "carpenter", "bread", "green"),
    Person("Sven", "he", "Millby", "miller", "pie", "blue"),
    Person("Rosa", "she", "Windmoor", "shepherd", "honey", "brown"),
    Person("Emil", "he", "Oakend", "gardener", "stew", "green"),
    Person("Vera", "she", "Gullrock", "doctor", "cheese", "purple"),
    Person("Wim", "he", "Saltmouth", "teacher", "cake", "red"),
)  # fmt: skip
SIBLINGS = (
    ("Cora", "Otto"), ("Tom", "Rosa"), ("Nell", "Pell"), ("Bram", "Ida"), ("Dov", "Finn"), ("Greta", "Ada"),
    ("Jory", "Hugo"), ("Mira", "Emil"),
)  # fmt: skip
ANIMALS = (
    Animal("goat", "Pip", "Bram"), Animal("cat", "Moss", "Sven"), Animal("dog", "Biscuit", "Pell"),
    Animal("hen", "Pepper", "Leo"), Animal("duck", "Clover", "Tom"), Animal("pony", "Ginger", "Cora"),
    Animal("donkey", "Thistle", "Finn"), Animal("cow", "Dumpling", "Ada"), Animal("pig", "Socks", "Dov"),
    Animal("rabbit", "Nutmeg", "Petra"), Animal("owl", "Tansy", "Kaja"), Animal("fox", "Rusty", "Rosa"),
)  # fmt: skip
THINGS = (
    Thing("kite", "Una", 4), Thing("drum", "Bram", 7), Thing("lamp", "Kaja", 6), Thing("boat", "Ida", 5),
    Thing("basket", "Otto", 12), Thing("clock", "Edda", 16), Thing("chair", "Ada", 2), Thing("bell", "Jory", 9),
    Thing("flute", "Petra", 11), Thing("ladder", "Hugo", 19), Thing("hat", "Cora", 17), Thing("net", "Vera", 10),
    Thing("mirror", "Greta", 13), Thing("cart", "Nell", 3), Thing("book", "Pell", 14), Thing("ring", "Wim", 8),
)  # fmt: skip

# The map: rows from north to south, each from west to east; and the sight of each place.
MAP = (
    ("Foxdale", "Stonebridge", "Millby"),
    ("Gullrock", "Oakend", "Reedham"),
    ("Sandwick", "Applegarth", "Windmoor"),
    ("Saltmouth", "Fernhill", "Highfold"),
)
SIGHTS = {
    "Foxdale": "tower", "Stonebridge": "bridge", "Millby": "mill", "Gullrock": "lighthouse", "Oakend": "school",
    "Reedham": "pond", "Sandwick": "beach", "Applegarth": "orchard", "Windmoor": "castle", "Saltmouth": "harbour",
    "Fernhill": "cave", "Highfold": "market",
}  # fmt: skip

PLACES = tuple(place for row in MAP for place in row)
NAMES = tuple(person.name for person in PEOPLE)
TRADES = tuple(dict.fromkeys(person.trade for person in PEOPLE))
FOODS = tuple(dict.fromkeys(person.food for person in PEOPLE))
COLOURS = tuple(dict.fromkeys(person.colour for person in PEOPLE))
KINDS = tuple(animal.kind for animal in ANIMALS)
ANIMAL_NAMES = tuple(animal.name for animal in ANIMALS)
THING_NAMES = tuple(thing.name for thing in THINGS)
PRICES = tuple(str(thing.coins) for thing in THINGS)

PERSON = {person.name: person for person in PEOPLE}
SIBLING = {**dict(SIBLINGS), **{second: first for first, second in SIBLINGS}}
KEPT = {animal.keeper: animal for animal in ANIMALS}
MADE = {thing.maker: thing for thing in THINGS}

# Possible values by relation: the choices of a question are drawn from them.
RELATIONS: dict[str, tuple[str, ...]] = {
    "home": PLACES, "trade": TRADES, "food": FOODS, "colour": COLOURS, "sibling": NAMES, "keeps": KINDS,
    "called": ANIMAL_NAMES, "made": THING_NAMES, "costs": PRICES, "sight": tuple(SIGHTS.values()), "south": PLACES,
    "east": PLACES,
}  # fmt: skip


def _facts() -> tuple[Fact, ...]:
    facts = []
    for person in PEOPLE:
        facts += [Fact(relation, person.name, getattr(person, relation)) for relation in ("home", "trade")]
        facts += [Fact(relation, person.name, getattr(person, relation)) for relation in ("food", "colour")]
    facts += [Fact("sibling", name, SIBLING[name]) for name in sorted(SIBLING)]
    for animal in ANIMALS:
        facts += [Fact("keeps", animal.keeper, animal.kind), Fact("called", animal.kind, animal.name)]
    for thing in THINGS:
        facts += [Fact("made", thing.maker, thing.name), Fact("costs", thing.name, str(thing.coins))]
    facts += [Fact("sight", place, sight) for place, sight in SIGHTS.items()]
    for north, south in pairwise(MAP):
        facts += [Fact("south", above, below) for above, below in zip(north, south, strict=True)]
    for row in MAP:
        facts += [Fact("east", west, east) for west, east in pairwise(row)]
    return tuple(facts)


FACTS = _facts()
FACTS_ABOUT: dict[str, tuple[Fact, ...]] = {
    name: tuple(fact for fact in FACTS if name in (fact.subject, fact.value))
    for name in (*NAMES, *PLACES, *KINDS, *THING_NAMES)
}


def hashed(*parts: str) -> int:
    """A number from 0 to 99 that depends only on the words, the same on every machine."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big") % 100


def seeded_generator(*parts: str) -> Random:
    """A random generator that depends only on the words, the same on every machine."""
    return Random("\0".join(parts))  # noqa: S311  # not a secret


def held_out(fact: Fact) -> bool:
    """Whether only the evaluation has questions about this fact; siblings are one fact in both directions."""
    if fact.relation == "sibling":
        return hashed("sibling", *sorted((fact.subject, fact.value))) < 20
    return hashed(*fact) < 20


def with_article(noun: str) -> str:
    """`an owl`, `a goat`."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
