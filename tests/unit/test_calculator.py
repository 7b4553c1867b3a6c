"""The calculator computes sums, and nothing else."""

from __future__ import annotations

import pytest

from nanochat.tools.calculator import calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12+7", "19"), ("2 * (3 - 5)", "-4"), ("7/2", "3.5"), ("1,200 + 1", "1201"), ("-3", "-3"), ("10 // 3", "3"),
        ("1,234,567 - 1", "1234566"), ('"strawberry".count("r")', "3"), ('"a,b,c".count(",")', "2"),
        ('"1,000".count("0")', "3"), ('"\\d".count("d")', "1"), ("+30+46+38", "114"), ("-+-3", "3"),
        ("2*(+4)", "8"), ("1000000*1000000*1000000", "1" + "0" * 18), ("10000000000000000001 - 1", "1" + "0" * 19),
        ("7 * 1,000,000,000,000,000", "7" + "0" * 15), ("9" * 99 + "*" + "9" * 100, str((10**99 - 1) * (10**100 - 1))),
    ],
)  # fmt: skip
def test_sums(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1/0",
        "9**9**9",
        "__import__('os')",
        "a+1",
        "print(1)",
        "1" * 300,
        "1e300*1e300",
        "[1]",
        '"a".upper()',
        "(",
        "1,2",
        "12,34",
        "1,2,3",
        "+",
        "1e16 * 10",
        "10000000000000000000 / 3",
        "1" * 150 + "/" + ".1",
    ],
)
def test_nothing_else(expression: str) -> None:
    assert calculate(expression) is None
