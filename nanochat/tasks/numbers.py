"""Numbers in answers.

    $29.00 → 29 · 1,000 → 1000 · 18. → 18 · -3 → -3 · -$2.50 → -2.5 · 20-3 → 20 and 3

A part of something else is not a number: `5/2` is neither 5 nor 2, `1,2` neither 1 nor 2, `x2` nothing.
"""

import re
from collections.abc import Iterator
from decimal import Decimal

MARK = "####"
"""The answer of GSM8K follows it."""
_NUMBER = re.compile(
    r"(?:(?<![\w.,/)])(?P<sign>[-+−])[$€£]?)?"
    r"(?<![\w.,/])(?P<value>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?![\d/]|[.,]\d|\s/\s?\d)"
)
_STRICT = re.compile(r"#### (-?[0-9.,]+)")


def numbers_in(text: str) -> Iterator[Decimal]:
    """The numbers of a text, in order."""
    for found in _NUMBER.finditer(text):
        if not text[max(0, found.start() - 2) : found.start()].rstrip().endswith("/"):
            value = Decimal(found["value"].replace(",", ""))
            yield -value if (found["sign"] or "+") != "+" else value


def last_number(text: str) -> Decimal | None:
    """The last number in a text."""
    return next(iter([*numbers_in(text)][-1:]), None)


def strict_answer(text: str) -> str | None:
    """The characters of a number after the first `####` and one space, without commas, as nanochat reads them."""
    found = _STRICT.search(text)
    return found[1].replace(",", "") if found else None


def flexible_answer(text: str) -> Decimal | None:
    """The first number of the line after the last `####`; the last number of a text without this mark."""
    _, mark, after = text.rpartition(MARK)
    if not mark:
        return last_number(text)
    return next(numbers_in(after.strip().partition("\n")[0]), None)
