"""Files that are something else than their names say: what they are is seen by their first bytes, and named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.errors import BadSource
from nanochat.sources.file_contents import open_text

LINES = b'{"text": "hello"}\n' * 2000


def packed(compression: str, data: bytes = LINES) -> bytes:
    if compression == "xz":
        return lzma.compress(data)
    return gzip.compress(data) if compression == "gzip" else _arrow(compression, data)


def _arrow(compression: str, data: bytes) -> bytes:
    into = pa.BufferOutputStream()
    with pa.CompressedOutputStream(into, compression) as stream:
        stream.write(data)
    return into.getvalue().to_pybytes()


def read(folder: Path, data: bytes, name: str = "a.jsonl") -> bytes:
    (folder / name).write_bytes(data)
    with open_text(folder / name) as stream:
        return stream.read()


@pytest.mark.parametrize("compression", ["gzip", "zstd", "bz2", "xz", "lz4"])
def test_the_bytes_say_how_they_are_compressed(tmp_path: Path, compression: str) -> None:
    """Also under a plain name, as a server with `Content-Encoding` leaves it, and in several parts."""
    data = packed(compression)
    assert read(tmp_path, data) == LINES
    assert read(tmp_path, data + data, "a.jsonl.gz") == LINES * 2
    with pytest.raises(BadSource, match=r"a\.jsonl` is damaged or truncated"):
        read(tmp_path, data[: len(data) // 2])
    with pytest.raises(BadSource, match=r"a\.jsonl` is damaged or truncated"):
        read(tmp_path, data + data[: len(data) // 2])
    with pytest.raises(BadSource, match=r"a\.jsonl` is damaged or truncated"):
        read(tmp_path, data + b"something else")


@pytest.mark.parametrize("compression", ["gzip", "xz"])
def test_zeros_behind_a_stream_are_padding(tmp_path: Path, compression: str) -> None:
    data = packed(compression) + bytes(1024)
    assert read(tmp_path, data) == LINES
    if compression == "xz":
        assert read(tmp_path, data + data) == LINES * 2


def test_frames_without_data_are_passed_over(tmp_path: Path) -> None:
    """As `pzstd` writes them before each of its frames."""
    nothing = b"\x50\x2a\x4d\x18\x04\0\0\0\1\2\3\4"
    assert read(tmp_path, (nothing + packed("zstd")) * 2, "a.jsonl.zst") == LINES * 2


def test_what_zstd_and_lz4_may_write_and_is_not_read_is_named(tmp_path: Path) -> None:
    long_window = b"\x28\xb5\x2f\xfd\0\xa8" + b"\1\0\0"  # a frame of 2 GB of window, with one empty block
    with pytest.raises(BadSource, match="window over 128 MB"):
        read(tmp_path, long_window, "a.jsonl.zst")
    with pytest.raises(BadSource, match=r"a\.jsonl\.lz4` is lz4 of the legacy format"):
        read(tmp_path, b"\x02\x21\x4c\x18rest", "a.jsonl.lz4")


def zipped() -> bytes:
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        archive.writestr("a.txt", "hello")
    return into.getvalue()


def tarred() -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return into.getvalue()


def parquet() -> bytes:
    into = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), into)
    return into.getvalue()


def database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "database") as connection:
        connection.execute("create table a (text)")
    return (folder / "database").read_bytes()


FOREIGN = {
    "a Parquet file": parquet(),
    "a zip archive": zipped(),
    "a tar archive": tarred(),
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    "a git-annex pointer": b"/annex/objects/SHA256E-s12345--" + b"0" * 64 + b".jsonl\n",
    "an HTML or XML page": b"\n<!DOCTYPE HTML>\n<html><body>Log in</body></html>",
    "UTF-16 text": "\ufeffhello".encode("utf-16-le"),
    "UTF-32 text": "\ufeffhello".encode("utf-32-le"),
    "nothing but zero bytes": bytes(5000),
    "a binary file": bytes(range(5)) * 3 + bytes(30) + b"\1" * 20,
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_what_is_no_text_is_named(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(BadSource) as caught:
        read(tmp_path, FOREIGN[kind], name)
    assert f"{name}` is {kind}, not text" in caught.value.message
    assert caught.value.hint
    with pytest.raises(BadSource, match=f"is {kind} inside gzip"):
        read(tmp_path, gzip.compress(FOREIGN[kind]), f"{name}.gz")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_other_encodings_are_named_with_and_without_a_mark(tmp_path: Path, encoding: str, mark: str) -> None:
    for text in ("It was a bright cold day in April.\n" * 20, "Grüße aus Köln\n"):
        with pytest.raises(BadSource, match=f"is {encoding[:6].upper()} text") as caught:
            read(tmp_path, (mark + text).encode(encoding), "a.txt")
        assert f"iconv -f {encoding[:6].upper()}" in caught.value.hint


@pytest.mark.parametrize(
    "page",
    [
        b"<html><head><title>404</title>",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
        b"\r\n<!-- proxy -->\n<!doctype html>",
    ],
)
def test_pages_of_servers_are_not_data(tmp_path: Path, page: bytes) -> None:
    with pytest.raises(BadSource, match="is an HTML or XML page"):
        read(tmp_path, page, "a.txt")


def test_other_files_that_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="is an SQLite database"):
        read(tmp_path, database(tmp_path))
    with pytest.raises(BadSource, match="is gzip inside bz2"):
        read(tmp_path, bz2.compress(gzip.compress(LINES)))
    with pytest.raises(BadSource, match="is empty"):
        read(tmp_path, b"")
    with pytest.raises(BadSource, match=r"first bytes are not those of \.gz"):
        read(tmp_path, LINES, "a.jsonl.gz")


@pytest.mark.parametrize(
    "text",
    ["x^2 + y^2", "BZhuh", "PKs and more", "html", "Obj", "MZ", "\x1b[0m", "日本語", "a\0bc d" * 10, "<p>prose</p>"],
)
def test_text_is_not_taken_for_something_else(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text.encode(), "a.txt") == text.encode()
