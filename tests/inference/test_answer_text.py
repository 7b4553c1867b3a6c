"""Text is released with whole characters, without any part of a stop string, aligned with its tokens."""

from __future__ import annotations

import random

import pytest

from nanochat.inference.answer_text import AnswerText, Written, joined, unfinished_character
from nanochat.inference.request import Part, TokenLogprob
from nanochat.tokenizer.bpe import Tokenizer

BYTES = Tokenizer.from_merges([])


def released(text: AnswerText) -> tuple[list[int], str]:
    written, parts = text.take()
    return [token for token, _, _ in written], "".join(part.text for part in parts)


def stream(pieces: list[bytes], stops: tuple[str, ...] = (), unfinished: bytes = b"") -> list[tuple[list[int], str]]:
    """What each token releases; token n has the bytes `pieces[n]`. The last entry is the end of the answer."""
    text = AnswerText(pieces, {}, stops, unfinished)
    steps: list[tuple[list[int], str]] = []
    for token in range(len(pieces)):
        if text.add(Written(token, False, None)) is not None:
            return [*steps, released(text)]
        steps.append(released(text))
    text.flush()  # may end at a stop string
    return [*steps, released(text)]


def whole(steps: list[tuple[list[int], str]]) -> tuple[list[int], str]:
    return [token for ids, _ in steps for token in ids], "".join(text for _, text in steps)


def test_a_character_of_several_tokens_is_released_when_it_is_whole() -> None:
    assert stream([b"a", b"\xf0", b"\x9f\x98", b"\x80b", b"\xc4\x8f"]) == [
        ([0], "a"), ([], ""), ([], ""), ([1, 2, 3], "😀b"), ([4], "ď"), ([], ""),
    ]  # fmt: skip


def test_only_bytes_that_are_no_character_become_the_replacement_character() -> None:
    assert whole(stream([b"a\xf0\x9f", b"b", b"\xff", b"\xc4"])) == (
        [0, 1, 2, 3],
        "a\N{REPLACEMENT CHARACTER}b\ufffd\ufffd",
    )


def test_a_prompt_that_ends_inside_a_character_is_not_repeated() -> None:
    prompt = "a clich\u00e9".encode()[:-1]
    assert unfinished_character(prompt) == b"\xc3"
    assert stream([b"\xa9 au lait"], unfinished=b"\xc3")[0] == ([0], "\u00e9 au lait")
    assert unfinished_character("né".encode()) == b""
    assert unfinished_character(b"\xf0\x9f\x98") == b"\xf0\x9f\x98"


def test_a_stop_string_that_falls_across_tokens_ends_the_text_before_it() -> None:
    pieces = [b"The quick br", b"own", b" f", b"ox jumps"]
    assert whole(stream(pieces, ("own fox",))) == ([0], "The quick br")


def test_a_stop_string_inside_a_token_keeps_the_token_that_begins_before_it() -> None:
    assert whole(stream([b"The ", b"quick brown"], ("ck b",))) == ([0, 1], "The qui")


def test_a_stop_string_of_two_tokens_ends_the_answer() -> None:
    assert whole(stream([b"alpha", b" ", b"beta", b" gamma", b" delta"], ("beta gamma",))) == ([0, 1], "alpha ")


def test_only_a_proper_prefix_of_a_stop_string_is_held_back() -> None:
    steps = stream([b"xx", b"ab", b"ac", b"abab", b"z"], ("abacus", "abaz"))
    assert steps == [([0], "xx"), ([], ""), ([], ""), ([1, 2], "abacab"), ([3, 4], "abz"), ([], "")]


def test_text_that_is_held_back_is_released_at_the_end_of_the_answer() -> None:
    assert stream([b"one", b" tw"], (" two",)) == [([0], "one"), ([], ""), ([1], " tw")]


def test_the_end_of_an_answer_does_not_release_a_stop_string() -> None:
    text = AnswerText([b"one", b" two", b" three"], {}, (" two",))
    assert text.add(Written(0, False, None)) is None
    assert text.add(Written(1, False, None)) == " two"
    text.flush()
    assert released(text) == ([0], "one")


def test_a_stop_string_that_ends_with_half_a_character_ends_the_text_where_the_answer_ends() -> None:
    """The half character is U+FFFD only when nothing follows it: at the end, or before a block."""
    text = AnswerText([b"ab", b"c", b"\xf0\x9f"], {}, ("bc\ufffd",))
    for token in range(3):
        assert text.add(Written(token, False, None)) is None
    assert text.flush() == "bc\ufffd"
    assert released(text) == ([0], "a")
    assert text.flush() is None
    assert released(text) == ([], "")
    marker = BYTES.special("<|python_start|>")
    text = AnswerText(BYTES.token_bytes(), {marker: "python"}, ("\ufffd",))
    for token in (ord("a"), 0xC4):
        text.add(Written(token, False, None))
    assert text.add(Written(marker, False, None)) == "\ufffd"
    assert released(text) == ([ord("a")], "a")


def test_of_two_stop_strings_the_one_that_is_whole_first_counts() -> None:
    assert whole(stream([b"abcd"], ("bcd", "c")))[1] == "ab"
    assert whole(stream([b"a", b"b", b"c", b"d"], ("bcd", "c")))[1] == "ab"


def test_a_stop_string_of_characters_of_several_bytes() -> None:
    assert whole(stream([b"a\xf0\x9f", b"\x98\x80", b"b"], ("😀",))) == ([0], "a")


def test_logprobs_stay_with_their_tokens() -> None:
    text = AnswerText([b"a", b"b", b"c"], {}, ("bx",))
    for token in range(3):
        text.add(Written(token, token == 1, TokenLogprob(token, -float(token))))
    written, _ = text.take()
    assert [(w.token, w.forced, w.logprob) for w in written] == [
        (token, token == 1, TokenLogprob(token, -float(token))) for token in range(3)
    ]


@pytest.mark.parametrize("seed", range(200))
def test_released_text_is_that_of_the_whole_answer_however_it_is_cut(seed: int) -> None:
    rng = random.Random(seed)
    content = "".join(rng.choice(["a", "b", "ab", "ď", "😀", " ", "ba"]) for _ in range(30)).encode()
    if seed % 3 == 0:
        content += b"\xf0\x9f"
    cuts = sorted(rng.sample(range(len(content) + 1), 12))
    pieces = [content[i:j] for i, j in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    stops = tuple(
        "".join(rng.choice(["a", "b", "ď", " ", "\ufffd"]) for _ in range(rng.randint(1, 4))) for _ in range(seed % 4)
    )
    ids, text = whole(steps := stream(pieces, stops))
    expected = content.decode(errors="replace")
    ends = [end for stop in stops if (end := expected.find(stop)) >= 0]
    if ends:
        first = min((expected.find(stop) + len(stop), expected.find(stop)) for stop in stops if stop in expected)[1]
        expected = expected[:first]
    assert text == expected
    assert ids == list(range(len(ids)))
    assert b"".join(pieces[token] for token in ids).decode(errors="replace").startswith(text)
    if not ends:
        assert len(ids) == len(pieces)
    if not stops:
        assert all("\ufffd" not in step for _, step in steps[:-1])


def test_blocks_are_parts_of_their_own() -> None:
    start, end = BYTES.special("<|python_start|>"), BYTES.special("<|python_end|>")
    text = AnswerText(BYTES.token_bytes(), {start: "python", end: "text"}, ("!",))
    parts: list[Part] = []
    for token in [*b"so ", start, *b"1!", end, start, *b"2", end, *b"ok"]:
        assert text.add(Written(token, False, None)) is None  # a stop string is one of the text, not of an expression
        parts += text.take()[1]
    assert joined(parts) == (Part("text", "so "), Part("python", "1!"), Part("python", "2"), Part("text", "ok"))
