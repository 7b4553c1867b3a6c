"""Texts that are hard on a tokenizer, for the parity tests."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

from hypothesis import strategies as st

from nanochat.world.documents import documents

WORDS = [
    *("der", "Hund", "läuft", "über", "Straßen", "東京", "は", "大きい", "12", "345", "6789", "приве́т", "мир", "naïve"),
    *(
        "don't",
        "WE'LL",
        "it'ſ",
        "\u00a0",
        "a\tb\r\n\n",
        "",
        "x",
        "½Ⅷ²",
        "🙂🙃",
        "HTTPServer",
        "McDonald's",
        "ǅaǆ",
        "a/b//c",
    ),
]
ANY_TEXT = st.text(
    st.sampled_from("abAB'sſlLvVeErdmDT12½ \t\n\r\u00a0\u2028\u0085\u0301ʰǅ.,!?-/é東🙂")
    | st.characters(exclude_categories=["Cs"]),
    max_size=80,
)


def multilingual(count: int) -> list[str]:
    generator = random.Random(1)
    return [
        " ".join(generator.choices(WORDS, k=generator.randint(1, 60))) + "\n" * generator.randint(0, 3)
        for _ in range(count)
    ]


TEXTS = [*documents(3, 0, 600), *multilingual(600)]
FORMS = ("{}", "a{}B{}1{}2{}", " {}  {}\n{}\n", "'{}'{}L.{}s{}'s")
"""What a code point is put between, in each place."""


def code_points() -> list[str]:
    return [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


def first_difference(
    ours: Callable[[str], list[int]], theirs: Callable[[str], list[int]], points: list[str], form: str
) -> str | None:
    """The first code point that is not encoded alike in the places of `form`; None if all are."""
    for some in batched(points, 4096):
        # U+0001 keeps one code point's text apart from the next one's
        text = "\u0001".join(form.replace("{}", point) for point in some)
        if ours(text) != theirs(text):
            alone = [point for point in some if ours(form.replace("{}", point)) != theirs(form.replace("{}", point))]
            return f"U+{ord(alone[0]):04X}" if alone else f"among U+{ord(some[0]):04X} and those behind it"
    return None


def batched(items: list[str], size: int) -> Iterator[list[str]]:
    rest = iter(items)
    while some := list(itertools.islice(rest, size)):
        yield some
