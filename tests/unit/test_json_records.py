"""JSON records: every way in which such files are broken or unusual, each with its file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanochat.errors import BadSource
from nanochat.sources.json_records import check_text, json_records

FINE = b'{"text": "fine"}\n'


def read(folder: Path, data: bytes, name: str = "a.jsonl") -> list[Any]:
    (folder / name).write_bytes(data)
    return [value for _, value in json_records(folder / name)]


def places(folder: Path, data: bytes, name: str = "a.jsonl") -> list[str]:
    (folder / name).write_bytes(data)
    return [where for where, _ in json_records(folder / name, name)]


@pytest.mark.parametrize(
    "data",
    [
        b'{"n": 1}\n{"n": 2}\n',
        b'{"n": 1}\n{"n": 2}',
        b'{"n": 1}\r\n{"n": 2}\r\n',
        b'{"n": 1}\r{"n": 2}\r',
        b'\xef\xbb\xbf{"n": 1}\n\xef\xbb\xbf{"n": 2}\n',
        b'\n\n  {"n": 1}  \n \t\n{"n": 2}\n\n',
    ],
    ids=["plain", "no last newline", "crlf", "cr", "byte order marks", "empty lines"],
)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_lines_are_read_however_they_end(tmp_path: Path, monkeypatch, data: bytes, chunk: int) -> None:
    monkeypatch.setattr("nanochat.sources.json_records.CHUNK_BYTES", chunk)
    assert read(tmp_path, data) == [{"n": 1}, {"n": 2}]


def test_places_count_lines_as_an_editor_does(tmp_path: Path) -> None:
    assert places(tmp_path, b'{"n": 1}\r\n\r\n{"n": 2}\r\n') == ["`a.jsonl`, line 1,", "`a.jsonl`, line 3,"]
    array = b'[\n {"n": 1},\n {"n":\n 2}, {"n": 3}]\n'
    assert places(tmp_path, array, "a.json") == [
        "`a.json`, record 1 (line 2),", "`a.json`, record 2 (line 3),", "`a.json`, record 3 (line 4),",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b'[{"n": 1}, {"n": 2}]',
        b'\xef\xbb\xbf [\r\n{"n": 1},\r\n{"n": 2}\r\n]\r\n',
        b'{"n": 1}\n{"n": 2}\n',
        b'{"n": 1}{"n": 2}',
        b'{\n "n": 1\n}\n{\n "n":\n 2\n}',
        b'{"n": 1} {\n"n": 2}\n',
    ],
    ids=["array", "array over lines", "lines", "in a row", "objects over lines", "begun in a line"],
)
def test_a_json_file_may_be_an_array_or_objects_in_a_row(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, data, "a.json") == [{"n": 1}, {"n": 2}]


def test_an_empty_array_has_no_records(tmp_path: Path) -> None:
    assert read(tmp_path, b" [ ] ", "a.json") == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"text": "a", "text": "b"}', "has the field `text` twice"),
        (b'{"deep": {"x": 1, "x": 2}}', "has the field `x` twice"),
        (b'{"text": "na\xefve"}', "is not UTF-8"),
        (b'{"text": "a\0b"}', "is not JSON: Invalid control character"),
        (b'{"text": ', "is not JSON: Expecting value"),
        (b'{"text": "cut o', "is not JSON: Unterminated string"),
        (b'{"text": "a"}{"text": "b"}', "more text follows the value"),
        (b"hello", "is not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(BadSource) as caught:
        read(tmp_path, FINE * 2 + line)
    assert "a.jsonl`, line 3," in caught.value.message and message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"n": 1}\n{"n": 2}]', "record 1 (line 1), is not JSON: Expecting ','"),
        (b'[{"n": 1},\n{"n": 2}', "record 2 (line 2), is not JSON: Expecting ','"),
        (b'[{"n": 1},\n', "record 2"),
        (b'[{"n": 1}] {"n": 2}', "has more text after the end of its array"),
        (b'{"n": 1}\n{"n": \n', "line 2, is not JSON"),
        (b'{"n": 1}\n{"n" 2}\n', "line 2, is not JSON"),
    ],
)
def test_a_broken_json_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(BadSource) as caught:
        read(tmp_path, data, "a.json")
    assert "a.json`" in caught.value.message and message in caught.value.message


def test_unused_fields_do_not_invalidate_a_line(tmp_path: Path) -> None:
    digits = "7" * 5_000
    line = f'{{"text": "a", "id": {digits}, "score": NaN, "top": -Infinity, "n": 1, "n": 1}}\n'
    (found,) = read(tmp_path, line.encode())
    assert found["text"] == "a"
    assert not isinstance(found["id"], str) and str(found["id"]) == digits


def test_a_line_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("nanochat.sources.json_records.LONGEST_RECORD_BYTES", 3 << 20)
    long = json.dumps({"text": "x" * (2 << 20)}).encode()
    assert len(read(tmp_path, long + b"\n" + long)) == 2, "the limit is of a line, not of the file"
    for name, data in (("a.jsonl", FINE + long[:-2] * 2), ("a.json", b"[" + long + b"," + long)):
        with pytest.raises(BadSource, match=r"than 3 MB"):
            read(tmp_path, data, name)


def test_half_a_surrogate_pair_is_no_character(tmp_path: Path) -> None:
    (found,) = read(tmp_path, b'{"text": "a \\ud800 b", "fine": "\\ud83d\\ude00"}')
    assert check_text(found["fine"], "here") == "😀"
    with pytest.raises(BadSource, match=r"`a\.jsonl`, line 1, has a lone surrogate \(`\\ud800`\)"):
        check_text(found["text"], "`a.jsonl`, line 1,")
