"""The embedded corpus: the same for everybody, true to its facts, and silent about what is held out."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

import pytest

from nanochat.world.conversations import conversations
from nanochat.world.documents import KINDS_OF_DOCUMENT, documents
from nanochat.world.facts import FACTS, hashed, held_out, seeded_generator
from nanochat.world.lessons import small_sum, sum_sentence
from nanochat.world.questions import HELD_OUT, LETTERS, TRAINING, choice, draw, held_out_answers, held_out_choices, quiz
from nanochat.world.statements import STATEMENTS
from nanochat.world.stories import PLOTS, baking, market_day


def asked_texts(pools):
    forms = [asked for several in (*pools.values, *pools.subjects) for asked in several]
    return {asked.text for asked in (*forms, *pools.two_steps, *pools.school, *pools.sums)}


def test_documents_are_a_pure_function():
    assert list(documents(1, 0, 50)) == list(documents(1, 0, 50))


def test_a_longer_shard_begins_with_a_shorter_one():
    assert list(documents(1, 3, 20)) == list(islice(documents(1, 3, 200), 20))


def test_shards_and_seeds_tell_differently():
    tellings = [set(documents(seed, shard, 200)) for seed, shard in ((1, 0), (1, 1), (2, 0))]
    assert not tellings[0] & tellings[1]
    assert not tellings[0] & tellings[2]


def test_hash_and_generator_are_the_same_on_every_machine():
    assert hashed("home", "Mira", "Reedham") == 36
    assert [seeded_generator("a", "b").randrange(100) for _ in range(2)] == [82, 82]


def test_documents_are_neither_short_nor_long_nor_the_same():
    texts = list(documents(1, 0, 2000))
    assert len(set(texts)) > 1990
    assert 250 < sum(map(len, texts)) / len(texts) < 800
    assert min(map(len, texts)) > 80
    assert max(map(len, texts)) < 1500


@pytest.mark.parametrize("kind", [*KINDS_OF_DOCUMENT, *PLOTS], ids=lambda kind: kind.__name__)
def test_no_document_is_malformed(kind):
    random = seeded_generator("malformed")
    for _ in range(300):
        text = kind(random)
        assert text == text.strip()
        assert not re.search(r"[{}]|  |,\.|\.\.|,,| \.|None", text), text
        assert text.isascii()


def test_every_fact_occurs_often_in_many_phrasings():
    text = "\n".join(documents(1, 0, 10_000))
    for fact in FACTS:
        told = [text.count(statement.rstrip(".")) for statement in STATEMENTS[fact]]
        assert sum(told) > 50, fact
        assert all(told), fact


def test_a_fifth_of_the_facts_is_held_out():
    assert 0.12 < sum(map(held_out, FACTS)) / len(FACTS) < 0.28


def test_nothing_held_out_is_in_a_quiz_or_a_training_conversation():
    held = asked_texts(HELD_OUT)
    random = seeded_generator("quizzes")
    asked = {line for _ in range(2000) for line in quiz(random).split("\n") if line.endswith("?")}
    for conversation in conversations(3, 4000):
        for message in conversation["messages"]:
            if message["role"] == "user":
                asked.add(message["content"].split("\n")[0])
    assert len(asked) > 1000
    assert not asked & (held - asked_texts(TRAINING))


def test_questions_that_both_sides_could_ask_are_not_held_out():
    evaluated = {each.question.text for each in held_out_choices()} | {each.text for each in held_out_answers()}
    assert not {text for text in evaluated & asked_texts(TRAINING) if "coins" not in text} - {
        asked.text for several in HELD_OUT.subjects for asked in several if not asked.open
    }


def test_the_evaluation_is_fair():
    questions = held_out_choices()
    letters = Counter(question.letter for question in questions)
    assert len(questions) >= 100
    assert set(letters) == set(LETTERS)
    assert max(letters.values()) < 0.4 * len(questions)
    for question in questions:
        choices = dict(re.findall(r"^- (.*)=([A-D])$", question.text, re.MULTILINE))
        assert len(choices) == 4
        assert choices[question.question.answer] == question.letter


def test_letters_are_uniform_in_training():
    random = seeded_generator("letters")
    letters = Counter(choice(random, draw(random)).letter for _ in range(4000))
    assert all(850 < letters[letter] < 1150 for letter in LETTERS)


def test_wrong_choices_are_wrong():
    for pools in (TRAINING, HELD_OUT):
        for several in (*pools.values, *pools.subjects):
            for asked in several:
                assert asked.answer not in asked.wrong
                assert len(set(asked.wrong)) >= 3


def test_sums_are_right():
    random = seeded_generator("sums")
    in_digits = 0
    for _ in range(500):
        first, sign, second = small_sum(random)
        assert eval(f"{first}{sign}{second}") >= 0
        if numbers := re.findall(r"\d+", sum_sentence(random, first, sign, second)):  # others are in words
            assert int(numbers[-1]) == eval(f"{first}{sign}{second}")
            in_digits += 1
    assert in_digits > 100


def test_stories_keep_their_accounts():
    random = seeded_generator("accounts")
    for _ in range(200):
        sold = market_day(random)
        paid = [int(number) for number in re.findall(r"(?:costs|for) (\d+) coins", sold)]
        assert f"paid {sum(paid)} coins" in sold
        made, first, second, left = map(int, re.findall(r": (\d+) less (\d+) less (\d+) is (\d+)", baking(random))[0])
        assert made - first - second == left > 0


def test_conversations_are_a_pure_function_and_the_splits_differ():
    assert list(conversations(1, 50)) == list(conversations(1, 50))
    assert list(conversations(1, 50)) != list(conversations(1, 50, held_out=True))
