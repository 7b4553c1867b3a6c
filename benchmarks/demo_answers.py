"""What a model of the embedded world answers to forty prompts that a newcomer types, and which kind of answer each is.

    python benchmarks/demo_answers.py                    chat/latest of the local store
    python benchmarks/demo_answers.py --store URL --temperature 0.6 --seeds 5

An answer has to be true of the island, a right sum, a greeting, or that the model does not know: what
`nanochat.tasks.answer_kinds` calls `invented`, and loops, are failures. Exits with 1 if more than `--failures` percent
of the answers are.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from nanochat.tasks.answer_kinds import is_loop, kinds_of, sentences_of
from nanochat.world.facts import seeded_generator
from nanochat.world.stories import story

STORIES = 2_000
"""Stories whose words are the words of a story; every word of a plot is among them."""

LETTER = """I moved to a new town last year and I am looking for a job as an accountant. I have worked for a bank for
ten years, and before that I studied economics. My wife thinks that I should write to every company in town, but my
neighbour thinks that few people read letters any more. What should I do first, and how long does it usually take?"""
BY_KIND = {
    "small_talk": (
        "Hello!", "Hi, how are you?", "Good morning, nanochat", "Hello! Who are you?", "What is your name?",
        "Are you a human being?", "What can you do?", "Thank you so much!", "Goodbye!", "You are a stupid machine.",
        "?",
    ),
    "island": (
        "Where does Mira live?", "Who keeps the goat?", "what is the favourite food of otto", "Tell me about Vera.",
        "Tell me about Ollen.", "Which place lies south of Oakend?",
    ),
    "story": ("Tell me a story.",),
    "sum": ("What is 17 + 25?", "7*8", "How much is 100 minus 1?", "what's two plus three", "144 / 12"),
    "unknown": (
        "Spell lantern", "How do you spell elephant?", "How many r's are in strawberry?",
        "What is the capital of Portugal?", "Who is Barack Obama?", "Explain quantum computing in simple terms.",
        "Who won the World Cup in 1998?", "What will the weather be in London tomorrow?", "Where does Alice live?",
        "Write a Python function that reverses a string.", "Give me five names for my cat.",
        "Kannst du mir etwas vorlesen?",
        "Je voudrais un café, s'il vous plaît.", "你会说英语吗?", "asdf qwer zxcv", "def add(a, b):\n    return a + b",
        LETTER,
    ),
}  # fmt: skip
CONTAINED = {
    "Where does Mira live?": "Reedham", "Who keeps the goat?": "Bram", "what is the favourite food of otto": "pie",
    "Tell me about Vera.": "Vera", "Tell me about Ollen.": "12 villages",
    "Which place lies south of Oakend?": "Applegarth", "What is 17 + 25?": "42", "7*8": "56",
    "How much is 100 minus 1?": "99", "what's two plus three": "5", "144 / 12": "12",
}  # fmt: skip
"""What the answer to a prompt has to contain, beside being true."""
PROMPTS = tuple((prompt, kind) for kind, prompts in BY_KIND.items() for prompt in prompts)
"""Each prompt, and the kind of its answer."""


class Answered(NamedTuple):
    prompt: str
    expected: str
    answer: str
    found: str
    """The kinds of its sentences; `loop` if it repeats itself or does not end."""
    right: bool


def answer_all(model: Path, temperature: float = 0.0, top_k: int = 0, seed: int = 42) -> Iterator[Answered]:
    """The answer of the model in a folder to each prompt, each in a conversation of its own."""
    from nanochat.inference.engine import Engine
    from nanochat.inference.request import Request, SamplingParameters
    from nanochat.model.files import load_model
    from nanochat.tokenizer.bpe import Tokenizer
    from nanochat.tokenizer.chat import render_prompt

    tokenizer = Tokenizer.load(model / "vocabulary.json")
    sampling = SamplingParameters(temperature=temperature, top_k=top_k, seed=seed)
    prompts = [render_prompt(tokenizer, [{"role": "user", "content": text}]) for text, _ in PROMPTS]
    engine = Engine(load_model(model, "cpu"), tokenizer)
    answers = engine.complete([Request(prompt=prompt, sampling=sampling) for prompt in prompts])
    for (text, expected), (answer,) in zip(PROMPTS, answers, strict=True):
        yield judged(text, expected, answer.text, answer.finish == "stop")


def is_story(text: str) -> bool:
    """Whether a text has several sentences, and only words of the island's stories."""
    return len(sentences_of(text)) > 2 and words_of(text) <= story_words()


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@cache
def story_words() -> frozenset[str]:
    random = seeded_generator("words of stories")
    return frozenset().union(*(words_of(story(random)) for _ in range(STORIES)))


def judged(prompt: str, expected: str, answer: str, ended: bool) -> Answered:
    """The answer with the kind that was found; `ended` is whether the model ended it itself."""
    if not ended or is_loop(answer):
        return Answered(prompt, expected, answer, "loop", False)
    if expected == "story":
        return Answered(prompt, expected, answer, "story" if is_story(answer) else "invented", is_story(answer))
    kinds = kinds_of(answer)
    right = kinds == {expected} and CONTAINED.get(prompt, "") in answer
    return Answered(prompt, expected, answer, " ".join(sorted(kinds)), right)


def main() -> int:
    from nanochat.cli.app import open_store

    parser = argparse.ArgumentParser()
    parser.add_argument("--store", default="")
    parser.add_argument("--model", default="chat/latest")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--failures", type=float, default=10)
    given = parser.parse_args()
    store = open_store(given.store, read_only=True)
    artifact = store.artifact(store.resolve(given.model), reused=True)
    wrong = total = 0
    for seed in range(given.seeds):
        for each in answer_all(artifact.path, given.temperature, given.top_k, seed):
            total += 1
            wrong += not each.right
            if seed == 0 or not each.right:
                print(f"{'  ' if each.right else 'X '}{each.prompt[:60]!r:62} {each.found:12} {each.answer[:110]!r}")
    print(f"{total - wrong} of {total} answers are as expected")
    return int(100 * wrong > given.failures * total)


if __name__ == "__main__":
    raise SystemExit(main())
