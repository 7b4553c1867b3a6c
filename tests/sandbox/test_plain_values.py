"""Values between a program and its tests: as in one process if they are plain data, and refused if they are not."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tools.sandbox.limits import Limits
from nanochat.tools.sandbox.plain_values import NotPlain, decode, encode, receive, send
from nanochat.tools.sandbox.sandbox import Checked, Sandbox

Point = namedtuple("Point", "x y")


class Colour(IntEnum):
    RED = 3


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(0, 5000).map(lambda n: -1 << n), st.text(), st.binary(),
    st.floats(allow_nan=False), st.complex_numbers(allow_nan=False), st.fractions(), st.decimals(allow_nan=False),
)  # fmt: skip
HASHABLE = st.one_of(SCALARS, st.tuples(SCALARS, SCALARS), st.frozensets(SCALARS, max_size=3))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(HASHABLE, inner), st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=20,
)


def through_a_pipe(value: object) -> object:
    read, write = os.pipe()
    writer = threading.Thread(target=send, args=(write, encode(value)))
    writer.start()
    try:
        return decode(receive(read))
    finally:
        writer.join()
        os.close(read)
        os.close(write)


@settings(deadline=None)
@given(VALUES)
def test_plain_values_arrive_as_they_are(value: object) -> None:
    found = through_a_pipe(value)
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value) or isinstance(value, set | frozenset | dict | list | tuple)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Point(1, 2), (1, 2)),
        (Colour.RED, 3),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        (Counter("aab"), {"a": 2, "b": 1}),
        ({"a": 1}.keys(), {"a"}),
        ({"a": 1}.items(), {("a", 1)}),
        (bytearray(b"x"), b"x"),
        (range(1, 9, 2), range(1, 9, 2)),
        (-0.0, 0.0),
        ("\udc80", "\udc80"),
    ],
)
def test_values_of_other_types_equal_plain_ones(value: object, expected: object) -> None:
    assert value == expected  # in one process
    assert through_a_pipe(value) == expected


@pytest.mark.parametrize(
    "value", [map(str, [1, 2]), (str(n) for n in (1, 2)), iter(["1", "2"]), {1: "1", 2: "2"}.values(), reversed("21")]
)
def test_iterators_arrive_as_iterators(value: object) -> None:
    assert list(through_a_pipe(value)) == ["1", "2"]


def test_nan_arrives() -> None:
    assert math.isnan(through_a_pipe(math.nan))


@pytest.mark.parametrize("value", [object(), print, type, os, [object()], {1: {2: print}}, iter(int, 1)])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(NotPlain):
        encode(value)


@pytest.mark.parametrize(
    "found",
    [
        {"object": 1}, {}, {"int": 1}, {"int": "x"}, {"set": [[1]]}, {"dict": [[1]]}, {"tuple": 3}, {"bytes": "x"},
        {"complex": [1, 2, 3]}, {"decimal": "x"}, {"fraction": [1, 0]}, {"range": [1, 2, 0]}, {"int": "1", "set": []},
        {"dict": [[{"dict": []}, 1]]},
    ],
)  # fmt: skip
def test_messages_that_are_not_values_are_refused(found: object) -> None:
    with pytest.raises(NotPlain):
        decode(found)


@pytest.mark.parametrize(
    "function", ["dict.fromkeys('ab', 1).keys", "lambda: map(int, '12')", "lambda: (n for n in (1,))"]
)
def test_tests_see_what_they_see_in_one_process(function: str, full: Sandbox) -> None:
    expected = (
        f"def check(f):\n    g = {function}\n    assert sorted(f()) == sorted(g())\n    assert f(), 'not empty'\n"
    )
    [verdict] = full.check([Checked((f"f = {function}",), "f", expected)], Limits(time_s=60))
    assert verdict.right, verdict


def test_arguments_and_errors_reach_the_other_side(full: Sandbox) -> None:
    program = "def f(*arguments, **named):\n    if named: return arguments, named\n    raise KeyError('missing')\n"
    tests = """
def check(f):
    assert f(1, [2, (3,)], a={4}) == ((1, [2, (3,)]), {"a": {4}})
    try:
        f()
    except KeyError as error:
        assert "missing" in str(error)
    else:
        raise AssertionError("no error")
"""
    [verdict] = full.check([Checked((program,), "f", tests)], Limits(time_s=60))
    assert verdict.right, verdict


def test_a_program_cannot_change_the_arguments_of_the_tests(full: Sandbox) -> None:
    """They are compared with the result, so a program that empties them would pass."""
    program = "def f(items):\n    items.clear()\n    return []\n"
    tests = "def check(f):\n    items = [2, 1]\n    assert f(items) == sorted(items)\n"
    [verdict] = full.check([Checked((program,), "f", tests)], Limits(time_s=60))
    assert verdict.name == "wrong"
