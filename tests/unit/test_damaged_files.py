"""Files damaged at random are read or refused by name, whatever their format is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.errors import BadSource
from nanochat.sources.checksums import read_checksum_file
from nanochat.sources.documents import read_documents

LINES = b"".join(json.dumps({"text": f"naïve {i}", "more": [1, {"a": None}]}).encode() + b"\n" for i in range(40))
PIECES = (b"\0", b"\r", b"\\ud800", b"\xef\xbb\xbf", b'"', b"{", b"]", b"NaN", b"1e999", b"9" * 5000, b"\xff", b"PAR1")


def parquet(**options: str | bool) -> bytes:
    into = io.BytesIO()
    pq.write_table(pa.table({"text": [f"naïve {i}" for i in range(50)]}), into, **options)
    return into.getvalue()


def zstd() -> bytes:
    into = pa.BufferOutputStream()
    with pa.CompressedOutputStream(into, "zstd") as stream:
        stream.write(LINES)
    return into.getvalue().to_pybytes()


WHOLE = (
    LINES, b"[" + LINES.strip().replace(b"\n", b",") + b"]", gzip.compress(LINES), bz2.compress(LINES),
    lzma.compress(LINES), zstd(), parquet(), parquet(use_dictionary=False, compression="brotli"),
    b"%s  a.jsonl\n" % (b"a1" * 32),
)  # fmt: skip
NAMES = ("a.jsonl", "a.json", "a.txt", "a.parquet", "a.jsonl.gz", "a.json.xz", "SHA256SUMS", "a.jsonl.md5")


@settings(max_examples=400, deadline=None)
@given(
    whole=st.sampled_from(WHOLE),
    name=st.sampled_from(NAMES),
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 200), st.binary(max_size=8) | st.sampled_from(PIECES)), max_size=4
    ),
)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, name: str, changes: list[tuple[float, int, bytes]]
) -> None:
    data = bytearray(whole)
    for place, removed, added in changes:
        begin = int(place * len(data))
        data[begin : begin + removed] = added
    file = tmp_path_factory.mktemp("damaged", numbered=True) / name
    file.write_bytes(data)
    try:
        if name in ("SHA256SUMS", "a.jsonl.md5"):
            read_checksum_file(file)
        else:
            for texts in read_documents(file, "text"):
                texts.validate(full=True)
    except BadSource as error:
        assert name in error.message
        assert error.message.endswith(".")
