"""Plain data as JSON, between a program and its tests: what arrives is numbers, texts and their containers only.

An object with a lying `__eq__` cannot be written, and its class does not exist on the other side.
"""

import json
import os
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

MESSAGE_BYTES = 16 << 20
ITEMS = 1_000_000
"""Maximum length of an iterator: a generator may have no end."""
SAFE_INTEGER = 1 << 53


class NotPlain(Exception):
    """A value, or a message, that is not plain data."""


def encode(value: Any) -> Any:
    """The value for JSON. Raises `NotPlain`, naming its type; an error of the value's own methods passes through."""
    match value:
        case None | bool() | float() | str():
            return value
        case int():
            return value if -SAFE_INTEGER < value < SAFE_INTEGER else {"int": hex(value)}
        case list():
            return [encode(each) for each in value]
        case tuple():
            return {"tuple": [encode(each) for each in value]}
        case dict():
            return {"dict": [[encode(key), encode(each)] for key, each in value.items()]}
        case set() | frozenset():
            return {type(value).__name__: [encode(each) for each in value]}
        case bytes() | bytearray():
            return {"bytes": bytes(value).hex()}
        case complex():
            return {"complex": [value.real, value.imag]}
        case range():
            return {"range": [encode(each) for each in (value.start, value.stop, value.step)]}
        case Decimal():
            return {"decimal": str(value)}
        case Fraction():
            return {"fraction": [encode(value.numerator), encode(value.denominator)]}
        case KeysView() | ItemsView():
            return {"set": [encode(each) for each in value]}
        case Iterator() | ValuesView():
            items = list(islice(iter(value), ITEMS + 1))
            if len(items) > ITEMS:
                raise NotPlain(f"an iterator of more than {ITEMS:,} items")
            return {"iterator": [encode(each) for each in items]}
    raise NotPlain(f"a value of the type `{type(value).__name__}`, which is not plain data")


def decode(found: Any) -> Any:
    """The value of `encode`. Raises `NotPlain`."""
    if isinstance(found, list):
        return [decode(each) for each in found]
    if not isinstance(found, dict):
        return found
    try:
        ((name, inside),) = found.items()
        return _decode(name, inside)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise NotPlain(f"a message that is not plain data: {error}") from None


def _decode(name: str, inside: Any) -> Any:
    match name:
        case "int":
            return int(inside, 16)
        case "tuple":
            return tuple(decode(each) for each in inside)
        case "dict":
            return {decode(key): decode(each) for key, each in inside}
        case "set":
            return {decode(each) for each in inside}
        case "frozenset":
            return frozenset(decode(each) for each in inside)
        case "bytes":
            return bytes.fromhex(inside)
        case "complex":
            return complex(*inside)
        case "range":
            return range(*(decode(each) for each in inside))
        case "decimal":
            return Decimal(inside)
        case "fraction":
            return Fraction(*(decode(each) for each in inside))
        case "iterator":
            return iter([decode(each) for each in inside])
    raise ValueError(f"there is no `{name}`")


def send(pipe: int, message: Any) -> None:
    """Writes a message. Raises `NotPlain` if it is too large, `OSError` if the other side is gone."""
    text = json.dumps(message).encode()
    if len(text) > MESSAGE_BYTES:
        raise NotPlain(f"a message of more than {MESSAGE_BYTES >> 20} MiB")
    rest = memoryview(len(text).to_bytes(4, "little") + text)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def receive(pipe: int) -> Any:
    """Reads a message. Raises `EOFError` if the other side is gone, `NotPlain` if it is not JSON or too large."""
    length = int.from_bytes(_read(pipe, 4), "little")
    if length > MESSAGE_BYTES:
        raise NotPlain(f"a message of more than {MESSAGE_BYTES >> 20} MiB")
    try:
        return json.loads(_read(pipe, length))
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"a message that is not JSON: {error}") from None


def _read(pipe: int, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(pipe, min(count - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
