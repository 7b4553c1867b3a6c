"""JSON records of a file: one per line; in a `.json` file also an array of records, or concatenated records."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from nanochat.errors import BadSource
from nanochat.sources.file_contents import open_text
from nanochat.sources.file_names import LINES, file_format

LONGEST_RECORD_BYTES = 256 << 20
"""A longer line is refused before it fills the memory."""
CHUNK_BYTES = 1 << 20
HINT = "A `.jsonl` file has one object a line; name a file that is one array, or whose objects span lines, `.json`."


def json_records(file: Path, name: str = "") -> Iterator[tuple[str, Any]]:
    """The records of a file, each with its place for messages: `` `a.jsonl`, line 3, ``.

    Empty lines are skipped. Raises `BadSource`, naming the place, if a record is not JSON, not UTF-8, too deeply nested
    or too long, or if an object has a field twice with different values.
    """
    name = name or str(file)
    with open_text(file, name) as stream:
        if file_format(file.name) in LINES:
            for number, line in _lines(stream, name):
                if line := line.strip():
                    where = f"`{name}`, line {number:,},"
                    yield where, _parse(_decode(line, where), where)
        else:
            yield from _values(stream, name)


def is_valid_text(text: str) -> bool:
    """Whether a string has no lone surrogate, which JSON allows and UTF-8 does not."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(text: str, where: str) -> str:
    """The same text. Raises `BadSource` if it has a lone surrogate."""
    if not is_valid_text(text):
        half = next(character for character in text if 0xD800 <= ord(character) <= 0xDFFF)
        raise BadSource(
            f"{where} has a lone surrogate (`\\u{ord(half):04x}`), which is not a character.",
            hint="Correct or remove it.",
        )
    return text


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    r"""Numbered lines; a line ends with `\n`, `\r\n` or `\r`."""
    number, rest, length = 1, list[bytes](), 0
    while chunk := stream.read(CHUNK_BYTES):
        for part in chunk.splitlines(keepends=True):
            if rest and rest[-1].endswith(b"\r") and part != b"\n":  # that line ended with the previous chunk
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


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadSource(
            f"{where} is not UTF-8: {error.reason} (byte 0x{line[error.start]:02x}).",
            hint="Convert the file, for example with `iconv -f latin1 -t utf-8`.",
        ) from error


def _parse(text: str, where: str) -> Any:
    text = text.strip()
    try:
        value, end = _decode_value(text, where)
        if end != len(text):
            raise json.JSONDecodeError("more text follows the value", text, end)
    except json.JSONDecodeError as error:
        raise _not_json(error, where) from error
    return value


def _values(stream: BinaryIO, name: str) -> Iterator[tuple[str, Any]]:
    """The elements of an array, or concatenated objects, with or without line breaks between and in them."""
    lines = _lines(stream, name)
    first, text = 1, ""
    for number, line in lines:
        text += _decode(line, f"`{name}`, line {number:,},")
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
                value, end = _decode_value(text, where)
            except json.JSONDecodeError as error:
                if error.pos >= len(text):  # continues in the next line
                    break
                raise _not_json(error, where) from error
            yield where, value
            text, first = text[end:].lstrip(), number
        if not text:
            first = number + 1
    if text.strip():
        _parse(text, f"`{name}`, line {first:,},")
        raise _not_json(json.JSONDecodeError("Expecting an object", text, 0), f"`{name}`, line {first:,},")


def _array(text: str, line: int, lines: Iterator[tuple[int, bytes]], name: str) -> Iterator[tuple[str, Any]]:
    """The elements of an array. Its whole text is held in memory."""
    parts, length = [text], len(text)
    for number, more in lines:
        parts.append(_decode(more, f"`{name}`, line {number:,},"))
        length += len(more)
        if length > LONGEST_RECORD_BYTES:
            raise BadSource(
                f"`{name}` is an array of more than {LONGEST_RECORD_BYTES >> 20} MB.",
                hint="Write it as JSON lines (`.jsonl`), which are read one by one.",
            )
    text = "".join(parts)
    at = counted = _skip_space(text, text.index("[") + 1)
    line += text.count("\n", 0, at)
    number = 0
    while text[at : at + 1] != "]" or number:
        line, counted = line + text.count("\n", counted, at), at
        where = f"`{name}`, record {number + 1:,} (line {line:,}),"
        try:
            value, at = _decode_value(text, where, at)
            yield where, value
            number += 1
            at = _skip_space(text, at)
            if text[at : at + 1] == "]":
                break
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
            at = _skip_space(text, at + 1)
        except json.JSONDecodeError as error:
            raise _not_json(error, where) from error
    if rest := text[at + 1 :].strip():
        raise BadSource(f"`{name}` has more text after the end of its array: `{rest[:40]}`.", hint=HINT)


def _skip_space(text: str, at: int) -> int:
    """The position of the next character that is not white space."""
    while text[at : at + 1] in (" ", "\t", "\r", "\n") and at < len(text):
        at += 1
    return at


def _decode_value(text: str, where: str, at: int = 0) -> tuple[Any, int]:
    """The value that begins at `at`, and its end. Raises `json.JSONDecodeError`, or `BadSource` at a limit."""
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
        raise BadSource(f"{where} is nested too deeply.", hint="Remove it.") from error


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
