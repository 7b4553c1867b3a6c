"""Counting a letter in a word, in many phrasings and some languages.

The word is spelled, and the letter counted by hand and with the calculator. It is a task of the same kind as nanochat's
SpellingBee, with phrasings and words of its own.

    How often is "r" in the word strawberry?
    → strawberry: s,t,r,a,w,b,e,r,r,y … 3:r (1) … 9:r (3) … 'strawberry'.count('r') = 3 … #### 3
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from string import ascii_lowercase

from nanochat.errors import BadSource
from nanochat.sources.local_files import is_local, local_path
from nanochat.tasks.conversation import Conversation, Question, Split, Task, exchange, open_question
from nanochat.tasks.numbers import flexible_answer, strict_answer
from nanochat.tasks.verdict import Verdict
from nanochat.world.conversations import HELD_OUT_WORDS, TRAINING_WORDS, word_held_out
from nanochat.world.facts import seeded_generator

TRAINING_CONVERSATIONS, VALIDATION_CONVERSATIONS, QUESTIONS = 2_000, 100, 256
PHRASINGS = (
    "How many {l} does the word {w} have", "How often is {l} in {w}", "How often does {w} contain {l}",
    "Count {l} in {w}", "Please count every {l} of the word {w}", "What number of {l} has {w}",
    "{w}: how many {l}", "The letter {l} in {w}, how many times", "I want to know how many {l} {w} has",
    "Do you know how often {l} occurs in {w}", "Look at the word {w} and count each {l}", "{l} in {w}, the count",
    "Find every {l} in {w} and give me their number", "Is {l} in {w} more than once, and how often",
    "Wie viele {l} hat das Wort {w}", "Wie oft steht {l} in {w}", "Combien de {l} y a-t-il dans {w}",
    "Combien de fois {w} contient-il {l}", "¿Cuántas veces está {l} en {w}", "Cuenta cada {l} de {w}",
    "Quante {l} ci sono in {w}", "Quantas letras {l} tem a palavra {w}", "Hoeveel {l} staan er in {w}",
    "单词{w}有几个{l}", "请数出{w}中{l}的个数", "{w}には{l}がいくつありますか", "{w}に{l}は何回使われていますか",
    "{w}에는 {l}가 몇 번 있습니까", "단어 {w}의 {l} 개수를 세어 주세요",
)  # fmt: skip
QUOTES = ("", "'", '"')


def task(seed: int, source: str = "", count: int = 0) -> Task:
    """Conversations of a seed; `count` is the number in the training split. The questions do not depend on the seed.

    `source` is a file with a word of letters a to z on each line; empty: the words of the embedded world. A fifth of
    the words is held out.
    """

    def conversations(split: Split) -> Iterator[Conversation]:
        train = split == "train"
        words = _words(source, held_out=not train)
        random = seeded_generator("spelling bee", split, str(seed))
        for _ in range((count or TRAINING_CONVERSATIONS) if train else VALIDATION_CONVERSATIONS):
            text, word, letter = _draw(random, words)
            yield exchange(text, _answer(word, letter))

    def questions() -> Iterator[Question]:
        words = _words(source, held_out=True)
        random = seeded_generator("spelling bee", "questions")
        for _ in range(QUESTIONS):
            text, word, letter = _draw(random, words)
            yield open_question("spelling_bee", text, str(word.count(letter)))

    def problems() -> Iterator[Question]:
        words = _words(source, held_out=False)
        random = seeded_generator("spelling bee", "problems", str(seed))
        for _ in range(count or TRAINING_CONVERSATIONS):
            text, word, letter = _draw(random, words)
            yield open_question("spelling_bee", text, str(word.count(letter)))

    return Task("spelling_bee", conversations, questions, problems)


def judge(question: Question, completion: str) -> Verdict:
    """Whether the number after the first `####` is right, as in GSM8K; flexible: the last number."""
    given = strict_answer(completion)
    flexible = flexible_answer(completion) == int(question["answer"])
    return Verdict(given == question["answer"], flexible, "no answer" if given is None else "")


def _words(source: str, *, held_out: bool) -> tuple[str, ...]:
    if not source:
        return HELD_OUT_WORDS if held_out else TRAINING_WORDS
    path = local_path(source) if is_local(source) else Path()
    if not is_local(source) or not path.is_file():
        raise BadSource(f"`{source}` is no file of words.", hint="Set `source` to a text with a word on each line.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        word = line.strip()
        if not word:
            continue
        if not set(word) <= set(ascii_lowercase):
            raise BadSource(f"`{path}`, line {number}, is no word of the letters a to z: `{word[:40]}`.")
        if word_held_out(word) == held_out:
            found.append(word)
    if not found:
        raise BadSource(f"`{path}` has too few words.", hint="A fifth of them is held out for questions.")
    return tuple(found)


def _draw(random: Random, words: tuple[str, ...]) -> tuple[str, str, str]:
    """A question, its word and its letter, which the word has nine times out of ten."""
    word = random.choice(words)
    letter = random.choice(word if random.random() < 0.9 else ascii_lowercase)
    phrasing = random.choice(PHRASINGS)
    if random.random() < 0.3:
        phrasing = phrasing.lower()
    around_letter, around_word = random.choice(QUOTES), random.choice(QUOTES)
    text = phrasing.format(l=f"{around_letter}{letter}{around_letter}", w=f"{around_word}{word}{around_word}")
    return text + random.choice(("?", "")), word, letter


def _answer(word: str, letter: str) -> list[dict[str, str]]:
    lines, count = [], 0
    for number, each in enumerate(word, 1):
        count += each == letter
        lines.append(f"{number}:{each}" + (f" ({count})" if each == letter else ""))
    by_hand = f"{word}: {','.join(word)}\n\nI count each {letter}:\n" + "\n".join(lines) + f"\nThat makes {count}.\n\n"
    return [
        {"type": "text", "text": f"{by_hand}I check this with Python: "},
        {"type": "python", "text": f"'{word}'.count('{letter}')"},
        {"type": "python_output", "text": str(count)},
        {"type": "text", "text": f"\n\n#### {count}"},
    ]
