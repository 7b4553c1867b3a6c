"""Stories of several plots whose end follows from their beginning.

Each plot is a function from a `Random` to a text. The last sentences (where a thing was left, how many are left, …)
follow from the first ones, so a better model predicts them better. People are introduced with facts about them, and all
statements about the world are true.
"""

from collections.abc import Callable
from itertools import pairwise
from random import Random

from nanochat.world.facts import (
    ANIMALS,
    COLOURS,
    FACTS_ABOUT,
    FOODS,
    KEPT,
    NAMES,
    PERSON,
    PLACES,
    SIGHTS,
    THINGS,
    Animal,
    with_article,
)
from nanochat.world.statements import HER, HIM, introduce, statement

WEATHER = {
    "spring": ("a soft rain fell", "the first flowers were out", "the wind was mild"),
    "summer": ("the sun was hot", "the sky was clear", "it was warm and still"),
    "autumn": ("the leaves were falling", "fog lay on the fields", "the wind was strong"),
    "winter": ("snow lay on the roofs", "the pond was frozen", "it was cold and dark"),
}
TIMES = ("One morning", "One day", "One evening", "Last week", "Once", "On a Sunday", "Early one morning", "One night")
HIDING_PLACES = ("under the bed", "behind the door", "in the barn", "on the roof", "under a tree", "behind the well",
                 "in the garden", "in the kitchen", "under the table", "in the boat house", "by the gate",
                 "in the tall grass")  # fmt: skip
MOODS = ("glad", "happy", "proud", "merry", "tired but happy")
RIDDLES = (
    ("I have a face and two hands, but I cannot wave", "clock"),
    ("I fly high, but I am tied to the ground", "kite"),
    ("I have a tongue of iron, and I sing when you swing me", "bell"),
    ("You hit me, and I answer boom", "drum"),
    ("I show you your own face", "mirror"),
    ("I shine in the dark and drink oil", "lamp"),
    ("I have many leaves, but I am no tree", "book"),
    ("I have steps, but I never walk", "ladder"),
    ("I am full of holes, and yet I hold fish", "net"),
    ("I have four legs, but I cannot run", "chair"),
    ("I am round and small, and I sit on a finger", "ring"),
    ("I carry you over the water and never get tired", "boat"),
    ("Blow into me, and I play a song", "flute"),
    ("I have two wheels and follow the pony", "cart"),
    ("I sit on your head all day", "hat"),
)
NUMBER_WORDS = (
    *("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)


def _people(random: Random, count: int) -> list[str]:
    return random.sample(NAMES, count)


def _setting(random: Random) -> str:
    season = random.choice(tuple(WEATHER))
    return random.choice((f"It was {season}, and {random.choice(WEATHER[season])}.", f"It was a day in {season}."))


def lost_and_found(random: Random) -> str:
    loser, finder, wrong = _people(random, 3)
    thing = random.choice(THINGS)
    she, her = PERSON[loser].pronoun, HER[PERSON[loser].pronoun]
    hidden, empty, also_empty = random.sample(HIDING_PLACES, 3)
    place = random.choice(PLACES)
    searches = random.choice(
        (
            f"{she.capitalize()} looked {empty}, but it was not there. "
            f"{she.capitalize()} looked {also_empty}, but it was not there.",
            f'"Is it {empty}?" asked {wrong}. But it was not {empty}, and it was not {also_empty}.',
            f"{wrong} came to help and looked {empty}. Nothing was there.",
        )
    )
    ending = random.choice(
        (
            f'"Here it is!" said {finder}. It was {hidden}, where {loser} had left it.',
            f"Then {finder} found it {hidden}, where {loser} had put it.",
            f"In the end {finder} looked {hidden}, and there was the {thing.name}.",
        )
    )
    return (
        f"{random.choice(TIMES)} {introduce(random, loser)} went to {place} with the {thing.name}. "
        f"{she.capitalize()} put it {hidden} and forgot it. {_setting(random)} "
        f'When {she} came home, the {thing.name} was gone. "Who has seen the {thing.name}?" asked {loser}. '
        f"{searches} {ending} {loser} thanked {finder} with all {her} heart and was {random.choice(MOODS)}."
    )


def gift_chain(random: Random) -> str:
    people = _people(random, random.randint(3, 5))
    thing = random.choice(THINGS)
    verbs = ("gave it to", "passed it on to", "brought it to", "handed it to")
    steps = [f"{introduce(random, people[0])} had {with_article(thing.name)} and gave it to {people[1]}."]
    for giver, taker in pairwise(people[1:]):
        steps.append(
            random.choice(
                (
                    f"{giver} {random.choice(verbs)} {introduce(random, taker)}.".replace(",.", "."),
                    f"But {giver} did not need it and {random.choice(verbs)} {taker}.",
                    f"The next day {giver} {random.choice(verbs)} {taker}.",
                )
            )
        )
    return (
        f"{random.choice(TIMES)} a {thing.name} went from hand to hand. {' '.join(steps)} "
        f"So in the end the {thing.name} was with {people[-1]}, and it had all begun with {people[0]}. "
        f"It was the {thing.name} that {thing.maker} had made."
    )


def market_day(random: Random) -> str:
    buyer, seller = _people(random, 2)
    she = PERSON[buyer].pronoun
    things = random.sample([thing for thing in THINGS if thing.coins <= 16], 2)
    total = sum(thing.coins for thing in things)
    purse = total + random.randint(0, 9)
    left = purse - total
    first, second = things
    rest = f"{left} coins were left" if left != 1 else "1 coin was left"
    return (
        f"It was market day in Highfold. {introduce(random, buyer)} came with {purse} coins. "
        f"{buyer} met {introduce(random, seller)} there. ".replace(", there", " there")
        + f'"What does the {first.name} cost?" asked {buyer}. "It costs {first.coins} coins," said {seller}. '
        f"{buyer} bought the {first.name}, and {purse - first.coins} coins were left. "
        f"Then {she} bought the {second.name} for {second.coins} coins, and {rest}. "
        f"In all {buyer} paid {total} coins and went home with the {first.name} and the {second.name}."
    )


def storm(random: Random) -> str:
    place = random.choice(PLACES)
    sight = SIGHTS[place]
    people = [person.name for person in PERSON.values() if person.home == place]
    random.shuffle(people)
    helper = random.choice([name for name in NAMES if name not in people])
    animal = random.choice(ANIMALS)
    broken = random.choice(("roof", "door", "wall", "fence"))
    return (
        f"{random.choice(TIMES)} a great storm came over {place}. The wind pulled at the {sight}, and the rain fell "
        f"all night. {', '.join(people[:-1])} and {people[-1]}, who live in {place}, stayed together in one house. "
        f"{animal.name} the {animal.kind} was afraid and hid {random.choice(HIDING_PLACES)}. "
        f"In the morning the {broken} of {people[0]} was broken. {introduce(random, helper)} came to help. "
        f"{people[1]} brought {random.choice(FOODS)}, and {helper} mended the {broken} before the evening. "
        f'"Thank you, {helper}," said {people[0]}.'
    ).replace(", came to help", " came to help")


def race(random: Random) -> str:
    runners: list[Animal] = random.sample(ANIMALS, random.randint(3, 4))
    start, goal = random.sample(PLACES, 2)
    order = runners[:]
    random.shuffle(order)
    names = [f"the {animal.kind}" for animal in runners]
    prize = random.choice(FOODS)
    winner = order[0]
    middle = " ".join(f"After {first.name} came {second.name} the {second.kind}." for first, second in pairwise(order))
    return (
        f"{random.choice(TIMES)} there was a race from {start} to {goal}. {', '.join(names[:-1]).capitalize()} and "
        f"{names[-1]} were in it. {_setting(random)} "
        f"{winner.name} the {winner.kind} ran in front all the way. {middle} "
        f"So {winner.name} was first and {order[-1].name} was last. "
        f"{winner.keeper}, who keeps the {winner.kind}, got some {prize} for the winner. "
        f"{order[-1].keeper} looked after {order[-1].name}, who was tired."
    )


def visit(random: Random) -> str:
    guest, host = _people(random, 2)
    home = PERSON[host].home
    she, him = PERSON[guest].pronoun, HIM[PERSON[guest].pronoun]
    gift = random.choice(THINGS)
    pet = KEPT.get(host)
    seen = f"{pet.name} the {pet.kind} was at the door. " if pet else ""
    known = random.choice(FACTS_ABOUT[host])
    return (
        f"{random.choice(TIMES)} {guest} wanted to see {host}. {host} lives in {home}, so {guest} went to {home}. "
        f"On the way {she} saw the {SIGHTS[home]}. {seen}{host} was {random.choice(MOODS)} to see {him} and put "
        f"{PERSON[host].food} on the table, for {host} loves {PERSON[host].food}. "
        f"{guest} had brought the {gift.name} as a gift. They talked about this and that. {statement(random, known)} "
        f"When {guest} went home to {PERSON[guest].home}, the {gift.name} stayed in {home} with {host}."
    )


def baking(random: Random) -> str:
    cook, helper, third = _people(random, 3)
    she = PERSON[cook].pronoun
    made = random.randint(7, 12)
    first, second = random.randint(1, 3), random.randint(1, 3)
    left = made - first - second
    cakes = random.choice(("cakes", "pies", "buns", "loaves"))
    number = NUMBER_WORDS
    return (
        f"{random.choice(TIMES)} {introduce(random, cook)} baked {number[made]} {cakes}. "
        f"{_setting(random)} {helper} came by and ate {number[first]}, so {number[made - first]} were left. "
        f"Then {third} came from {PERSON[third].home} and ate {number[second]}. "
        f'"How many are left?" asked {helper}. "{number[left].capitalize()}," said {cook}, and {she} was right: '
        f"{made} less {first} less {second} is {left}. The last {number[left]} {cakes} were for "
        f"{random.choice([name for name in NAMES if name not in (cook, helper, third)])}."
    )


def repairing(random: Random) -> str:
    thing = random.choice(THINGS)
    owner = random.choice([name for name in NAMES if name != thing.maker])
    maker = PERSON[thing.maker]
    tries = random.sample([name for name in NAMES if name not in (owner, maker.name)], 2)
    asked = " ".join(
        f"{owner} asked {introduce(random, name)}".removesuffix(",") + f', but {name} said: "I did not make it."'
        for name in tries
    )
    return (
        f"{random.choice(TIMES)} the {thing.name} of {owner} was broken. {asked} "
        f'"Who made the {thing.name}?" asked {owner}. "{maker.name} made it," said {tries[1]}. '
        f"So {owner} went to {maker.home}, where {maker.name} lives. {maker.name} the {maker.trade} took the "
        f"{thing.name}, and soon it was as good as new. {owner} paid with {random.choice(FOODS)} and went home to "
        f"{PERSON[owner].home}."
    )


def riddle(random: Random) -> str:
    asker, first, second = _people(random, 3)
    question, answer = random.choice(RIDDLES)
    wrong = random.choice([thing.name for thing in THINGS if thing.name != answer])
    maker = next(thing.maker for thing in THINGS if thing.name == answer)
    return (
        f'{random.choice(TIMES)} {introduce(random, asker)} asked a riddle. "{question}. What am I?" '
        f'"{with_article(wrong).capitalize()}!" said {first}. "No," said {asker}, "it is not {with_article(wrong)}." '
        f'{introduce(random, second)} thought for a while. "It is {with_article(answer)}!" "Yes," said {asker}, '
        f'"it is {with_article(answer)}, like the one that {maker} made." {second} was {random.choice(MOODS)}.'
    )


def runaway(random: Random) -> str:
    animal = random.choice(ANIMALS)
    keeper = PERSON[animal.keeper]
    stops = random.sample([place for place in PLACES if place != keeper.home], 3)
    witness = random.choice([person for person in PERSON.values() if person.home == stops[2]])
    return (
        f"{random.choice(TIMES)} {animal.name} the {animal.kind} ran away from {keeper.home}. {keeper.name}, who keeps "
        f'the {animal.kind}, went to look. In {stops[0]} nobody had seen {animal.name}. "Go to {stops[1]}," they said. '
        f"At the {SIGHTS[stops[1]]} of {stops[1]} there were only tracks, and they led to {stops[2]}. "
        f"There stood {introduce(random, witness.name)}".removesuffix(",")
        + f', and beside {HIM[witness.pronoun]} the {animal.kind}. "Is this {animal.name}?" asked {witness.name}. '
        f'"Yes," said {keeper.name}, "{animal.name} is mine." From {stops[2]} they walked home to {keeper.home}.'
    )


def feast(random: Random) -> str:
    place = random.choice(PLACES)
    guests = _people(random, 4)
    brought = [f"{name} brought {PERSON[name].food}" for name in guests]
    worn = [f"{name} wore {PERSON[name].colour}" for name in guests[:3]]
    random.shuffle(brought)
    return (
        f"There was a feast in {place}, by the {SIGHTS[place]}. Everybody brought what they like best: "
        f"{', '.join(brought[:-1])} and {brought[-1]}. Everybody wore their favourite colour: "
        f"{', '.join(worn[:-1])} and {worn[-1]}. {_setting(random)} {introduce(random, guests[3])} sang a song. "
        f"They stayed until the {random.choice(('moon', 'sun', 'stars'))} came up, and all were {random.choice(MOODS)}."
    ).replace(", sang a song", " sang a song")


def journey(random: Random) -> str:
    walker = random.choice(NAMES)
    she = PERSON[walker].pronoun
    stops = random.sample(PLACES, 4)
    gifts = random.sample(COLOURS, 3)
    bag = [f"{with_article(colour)} stone" for colour in gifts]
    return (
        f"{introduce(random, walker)} went on a journey".replace(", went", " went")
        + f" from {stops[0]}. In {stops[1]} {she} found {bag[0]} by the {SIGHTS[stops[1]]}. In {stops[2]} {she} found "
        f"{bag[1]} by the {SIGHTS[stops[2]]}. In {stops[3]} {she} found {bag[2]} by the {SIGHTS[stops[3]]}. "
        f"{_setting(random)} At home {walker} showed the three stones. "
        f'"The {gifts[0]} one is from {stops[1]}, the {gifts[1]} one is from {stops[2]} and the {gifts[2]} one is from '
        f'{stops[3]}," said {walker}.'
    )


PLOTS: tuple[Callable[[Random], str], ...] = (
    lost_and_found, gift_chain, market_day, storm, race, visit, baking, repairing, riddle, runaway, feast, journey,
)  # fmt: skip


def story(random: Random) -> str:
    """A story of any plot, 300 to 800 characters."""
    return random.choice(PLOTS)(random)
