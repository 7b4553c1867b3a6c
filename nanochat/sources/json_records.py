"""JSON records of a file: a record a line, or, in a `.json` file, also an array of records or records in a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from nanochat.errors import BadSource
from nanochat.sources.file_names import LINES, file_format
from nanochat.sources.file_signature import open_source

LONGEST_RECORD_BYTES = 256 << 20
"""A longer line is refused before it fills the memory."""
CHUNK_BYTES = 1 << 20
HINT = "A `.jsonl` file has one object a line; name a file that is one array, or whose objects span lines, `.json`."


def json_records(file: Path, name: str = "") -> Iterator[tuple[str, Any]]:
    """The records of a file, each with its place for messages: `` `a.jsonl`, line 3, ``.

    Empty lines are skipped. Raises `BadSource`, naming the place, for what is not JSON, not UTF-8, nested too deep or
    too long, and for an object that has a field twice with different values.
    """
    name = name or str(file)
    with open_source(file, name) as stream:
        if file_format(file.name) in LINES:
            for number, line in _lines(stream, name):
                if line := line.strip():
                    where = f"`{name}`, line {number:,},"
                    yield where, _parsed(_decoded(line, where), where)
        else:
            yield from _values(stream, name)


def is_text(text: str) -> bool:
    """Whether all of it is characters: JSON may also hold half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_of(text: str, where: str) -> str:
    """The same text; raises `BadSource` for half of a surrogate pair, which is no character."""
    if not is_text(text):
        half = next(character for character in text if 0xD800 <= ord(character) <= 0xDFFF)
        raise BadSource(
            f"{where} has half of a surrogate pair (`\\u{ord(half):04x}`), which is no character.",
            hint="Correct or remove it.",
        )
    return text


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    r"""Numbered lines; a line ends with `\n`, `\r\n` or `\r`."""
    number, rest, length = 1, list[bytes](), 0
    while chunk := stream.read(CHUNK_BYTES):
        for part in chunk.splitlines(keepends=True):
            if rest and rest[-1].endswith(b"\r") and part != b"\n":  # a line that ended with the chunk before
                yield number, b"".join(rest)
                number, rest, length = number + 1, [], 0
            rest.append(part)
            length += len(part)
            if length > LONGEST_RECORD_BYTES:
                raise _too_long(f"`{name}`, line {number:,},")
            if part.endswith(b"\n") or (part.endswith(b"\r") and not chunk.endswith(part)):
                yield number, b"".join(rest)
                number, rest, length = number + 1, [], 0
    if rest:
        yield number, b"".join(rest)


def _too_long(where: str) -> BadSource:
    return BadSource(f"{where} is longer than {LONGEST_RECORD_BYTES >> 20} MB.", hint=HINT)


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadSource(
            f"{where} is not UTF-8: {error.reason} (byte 0x{line[error.start]:02x}).",
            hint="Convert the file, for example with `iconv -f latin1 -t utf-8`.",
        ) from error


def _parsed(text: str, where: str) -> Any:
    text = text.strip()
    try:
        value, end = _guarded(text, where)
        if end != len(text):
            raise json.JSONDecodeError("more text follows the value", text, end)
    except json.JSONDecodeError as error:
        raise _not_json(error, where) from error
    return value


def _values(stream: BinaryIO, name: str) -> Iterator[tuple[str, Any]]:
    """The elements of an array, or objects after each other, with or without line breaks between and in them."""
    lines = _lines(stream, name)
    first, text = 1, ""
    for number, line in lines:
        text += _decoded(line, f"`{name}`, line {number:,},")
        if not text.strip():
            first, text = number + 1, ""
            continue
        if text.lstrip().startswith("["):
            yield from _array(text, first, lines, name)
            return
        if len(text) > LONGEST_RECORD_BYTES:
            raise _too_long(f"`{name}`, line {first:,},")
        if not text.rstrip().endswith("}"):
            continue
        text = text.strip()
        while text:
            where = f"`{name}`, line {first:,},"
            try:
                value, end = _guarded(text, where)
            except json.JSONDecodeError as error:
                if error.pos >= len(text):  # goes on in the next line
                    break
                raise _not_json(error, where) from error
            yield where, value
            text, first = text[end:].lstrip(), number
        if not text:
            first = number + 1
    if text.strip():
        _parsed(text, f"`{name}`, line {first:,},")
        raise _not_json(json.JSONDecodeError("Expecting an object", text, 0), f"`{name}`, line {first:,},")


def _array(text: str, line: int, lines: Iterator[tuple[int, bytes]], name: str) -> Iterator[tuple[str, Any]]:
    """The elements of an array, which is held in memory whole, as its text."""
    parts, length = [text], len(text)
    for number, more in lines:
        parts.append(_decoded(more, f"`{name}`, line {number:,},"))
        length += len(more)
        if length > LONGEST_RECORD_BYTES:
            raise BadSource(
                f"`{name}` is an array of more than {LONGEST_RECORD_BYTES >> 20} MB.",
                hint="Write it as JSON lines (`.jsonl`), which are read one by one.",
            )
    text = "".join(parts)
    at = counted = _skip(text, text.index("[") + 1)
    line += text.count("\n", 0, at)
    number = 0
    while text[at : at + 1] != "]" or number:
        line, counted = line + text.count("\n", counted, at), at
        where = f"`{name}`, record {number + 1:,} (line {line:,}),"
        try:
            value, at = _guarded(text, where, at)
            yield where, value
            number += 1
            at = _skip(text, at)
            if text[at : at + 1] == "]":
                break
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
            at = _skip(text, at + 1)
        except json.JSONDecodeError as error:
            raise _not_json(error, where) from error
    if rest := text[at + 1 :].strip():
        raise BadSource(f"`{name}` goes on behind the end of its array: `{rest[:40]}`.", hint=HINT)


def _skip(text: str, at: int) -> int:
    """The next character that is not white space."""
    while text[at : at + 1] in (" ", "\t", "\r", "\n") and at < len(text):
        at += 1
    return at


def _guarded(text: str, where: str, at: int = 0) -> tuple[Any, int]:
    """The value that begins there, and where it ends. Raises `json.JSONDecodeError`, or `BadSource` for limits."""
    try:
        try:
            return DECODER.raw_decode(text, at)
        except (json.JSONDecodeError, _FieldTwiceError):
            raise
        except ValueError:  # more digits than Python converts to an int
            return LONG_INTEGERS.raw_decode(text, at)
    except _FieldTwiceError as error:
        raise BadSource(f"{where} has the field `{error}` twice, with different values.", hint="Remove one.") from error
    except RecursionError as error:
        raise BadSource(f"{where} is nested too deep to be read.", hint="Remove it.") from error


class _FieldTwiceError(ValueError):
    """An object has a field twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        first: dict[str, Any] = {}
        for name, value in pairs:
            before = first.setdefault(name, value)
            if before is not value and before != value:
                raise _FieldTwiceError(name)
    return found


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) < 1000 else Decimal(digits)


DECODER = json.JSONDecoder(object_pairs_hook=_object)
LONG_INTEGERS = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)


def _not_json(error: json.JSONDecodeError, where: str) -> BadSource:
    return BadSource(f"{where} is not JSON: {error.msg} (character {error.pos + 1:,}).", hint=HINT)
