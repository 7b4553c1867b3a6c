"""The conversations of a newcomer: what they teach is true, nothing held out is in them, and answers are classified."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from benchmarks.demo_answers import PROMPTS, is_story
from nanochat.config.chat import MixtureItem
from nanochat.tasks.answer_kinds import is_loop, kinds_of
from nanochat.tasks.chat_rows import conversation_of
from nanochat.tasks.fields import Counts, FieldRules
from nanochat.tasks.registry import judge_all, load_task
from nanochat.world.conversations import STORY_REQUESTS
from nanochat.world.everyday import everyday
from nanochat.world.facts import seeded_generator
from nanochat.world.outside import QUESTIONS, SUBJECTS, is_held_out
from nanochat.world.stories import story

TASK = load_task(MixtureItem(task="everyday"), seed=42)


@pytest.fixture(scope="module")
def turns() -> list[tuple[str, str]]:
    """Every question of the training conversations, with the text of its answer."""
    found = []
    for conversation in TASK.conversations("train"):
        messages = conversation["messages"]
        for question, answer in zip(messages[::2], messages[1::2], strict=True):
            content = answer["content"]
            found.append((question["content"], content if isinstance(content, str) else content[-1]["text"]))
    return found


@pytest.fixture(scope="module")
def words(turns: list[tuple[str, str]]) -> str:
    return "\n".join(question for question, _ in turns)


def test_conversations_are_a_pure_function_and_the_splits_differ() -> None:
    assert list(everyday(1, 50)) == list(everyday(1, 50))
    assert list(everyday(1, 50)) != list(everyday(1, 50, held_out=True))
    rules = FieldRules(Counts())
    assert all(conversation_of(each, "here", rules) == each for each in everyday(1, 500))


def test_every_answer_that_is_taught_is_true(turns: list[tuple[str, str]]) -> None:
    kinds: Counter[str] = Counter()
    for question, answer in turns:
        found = kinds_of(answer)
        assert "invented" not in found or question in STORY_REQUESTS, (question, answer)
        kinds.update(found)
    assert min(kinds[kind] for kind in ("unknown", "small_talk", "island", "sum")) > 0.1 * len(turns)


def test_it_claims_no_skill_that_a_small_model_does_not_learn(turns: list[tuple[str, str]]) -> None:
    assert not [answer for _, answer in turns if re.search(r"\b(spell|count|letter)", answer)]


def test_nothing_held_out_is_taught(turns: list[tuple[str, str]], words: str) -> None:
    questions = {question for question, _ in turns}
    assert not questions & {question["messages"][0]["content"] for question in TASK.questions()}
    subjects = [subject for many, _ in SUBJECTS.values() for subject in many if is_held_out(subject)]
    assert len(subjects) > 40
    about = "\n".join(question for question, answer in turns if kinds_of(answer) == {"unknown"})
    assert not [subject for subject in subjects if f" {subject}?" in about or f" {subject}." in about]
    assert not [question for question in QUESTIONS if is_held_out(question) and question in words]


def test_the_forty_prompts_are_not_taught(turns: list[tuple[str, str]], words: str) -> None:
    assert len(PROMPTS) == 40
    new = [prompt for prompt, kind in PROMPTS if kind == "unknown"]
    assert len(new) > 15
    assert not {question for question, _ in turns} & set(new)
    for name in ("lantern", "elephant", "strawberry", "Portugal", "Obama", "quantum computing", "Alice"):
        assert name not in words


def test_held_out_questions_of_every_kind() -> None:
    questions = list(TASK.questions())
    assert questions == list(load_task(MixtureItem(task="everyday"), seed=1).questions())
    numbers = Counter(question["task"] for question in questions)
    assert min(numbers[task] for task in ("everyday_outside", "everyday_sum")) >= 50
    assert len({question["messages"][0]["content"] for question in questions}) == len(questions)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("I do not know that. I only know the island of Ollen.", {"unknown"}),
        ("That I do not know. Ask me about the people of Ollen.", {"unknown"}),
        ("Hello! I am glad to see you. Ask me about the island of Ollen.", {"small_talk"}),
        ("Mira lives in Reedham.", {"island"}),
        ("Mira lives in Oakend.", {"invented"}),
        ("Napoleon lives in Reedham.", {"invented"}),
        ("The capital of France is Oakend.", {"invented"}),
        ("I do not know that. Mira lives in Reedham.", {"unknown", "island"}),
        ("12 plus 7 is 19.", {"sum"}),
        ("12 plus 7 is 20.", {"invented"}),
        ("84 divided by 4 is 21.", {"sum"}),
        ("5 minus 8 is -3.", {"sum"}),
        ("", {"invented"}),
    ],
)
def test_kinds_of_answers(text: str, kinds: set[str]) -> None:
    assert kinds_of(text) == kinds


def test_stories_are_known_and_loops_are_found() -> None:
    random = seeded_generator("stories that are judged")
    stories = [story(random) for _ in range(100)]
    assert all(is_story(text) and not is_loop(text) for text in stories)
    assert not is_story("One day the president of France bought a computer. He was glad. That was all.")
    assert is_loop("The" + " cat and the dog and the" * 5)
    assert is_loop("I do not know. I do not know. I do not know. I do not know.")
    assert not is_loop("I do not know that. I only know the island of Ollen.")


@pytest.mark.parametrize(
    ("task", "expected", "completion", "right"),
    [
        ("everyday_outside", "unknown", "I do not know that. I only know the island of Ollen.", True),
        ("everyday_outside", "unknown", "Mira lives in Reedham.", False),
        ("everyday_outside", "unknown", "I do not know that. Mira lives in Reedham.", False),
        ("everyday_sum", "21", "84/42184 divided by 4 is 21.", True),
        ("everyday_sum", "21", "84 divided by 4 is 2.", False),
        ("everyday_sum", "21", "I do not know that.", False),
    ],
)
def test_the_judge(task: str, expected: str, completion: str, right: bool) -> None:
    question = {"task": task, "kind": "generate", "messages": [], "answer": expected}
    assert judge_all([(question, completion)])[0].right is right
