"""Numbers in answers, by the strict rule of nanochat and by the lenient one."""

from __future__ import annotations

from decimal import Decimal

import pytest

from nanochat.tasks.numbers import flexible_answer, last_number, numbers_in, strict_answer
from nanochat.tasks.registry import judge_all
from nanochat.tasks.verdict import Verdict


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("$29.00", ["29"]), ("1,000", ["1000"]), ("18.", ["18"]), ("-3", ["-3"]), ("5/2", []), ("5 / 2", []),
        ("-$2.50", ["-2.5"]), ("$-5", ["-5"]), ("+7", ["7"]), ("\N{MINUS SIGN}7", ["-7"]),
        ("20-3=17", ["20", "3", "17"]), ("(3)-4", ["3", "4"]),
        ("1,2,3", []), ("1,0000", []), ("1,234,567.5", ["1234567.5"]), ("3.14.15", []),
        ("x2", []), ("18km", ["18"]), ("5%", ["5"]), ("12/5/2020", []), ("no", []), ("9" * 400, ["9" * 400]),
    ],
)  # fmt: skip
def test_numbers_of_a_text(text: str, numbers: list[str]) -> None:
    """Case 14 (LM#3214)."""
    assert list(numbers_in(text)) == [Decimal(number) for number in numbers]
    assert last_number(text) == (Decimal(numbers[-1]) if numbers else None)


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("#### 18", "18", "18"),
        ("#### $18", None, "18"),
        ("####18", None, "18"),
        ("####   18", None, "18"),
        ("#### 18.", "18.", "18"),
        ("#### 18.00", "18.00", "18"),
        ("#### 1,000", "1000", "1000"),
        ("#### -3", "-3", "-3"),
        ("#### $29.00", None, "29"),
        ("#### 5/2", "5", None),
        ("#### **18** dollars", None, "18"),
        ("#### The answer is 18 (20 - 2).", None, "18"),
        ("####\n18 of 20", None, "18"),
        ("#### none\n20", None, None),
        ("She has 20 - 2 = 18 left.", None, "18"),
        ("#### 3\n\nQuestion: another\n#### 18", "3", "18"),
        ("Not known.", None, None),
        ("", None, None),
    ],
)
def test_the_answer_of_a_text(text: str, strict: str | None, flexible: str | None) -> None:
    """Cases 14 (LM#3214) and 16 (LM#3438): strict is nanochat's rule and the first mark, flexible the last."""
    assert strict_answer(text) == strict
    assert flexible_answer(text) == (None if flexible is None else Decimal(flexible))


@pytest.mark.parametrize("task", ["gsm8k", "spelling_bee"])
def test_both_rules_are_kept_apart(task: str) -> None:
    """Case 16 (LM#3438)."""
    question = {"task": task, "kind": "generate", "answer": "18"}
    texts = ("#### 18", "#### $18", "#### 17", "#### 18.0", "It is 18.", "#### 18 … #### 3", "####", "#### 5/2")
    assert judge_all([(question, text) for text in texts]) == [
        Verdict(True, True), Verdict(False, True, "no answer"), Verdict(False, False), Verdict(False, True),
        Verdict(False, True, "no answer"), Verdict(True, False), Verdict(False, False, "no answer"),
        Verdict(False, False),
    ]  # fmt: skip


def test_a_verdict_has_one_name() -> None:
    assert Verdict(True, True, "no answer").name == "right"
    assert Verdict(False).name == "wrong"
    assert Verdict(False, True, "no answer").name == "no answer"
