"""Detects the kind of a file by its first bytes, opens text files decompressed, and converts damage into our errors."""

import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from nanochat.errors import BadSource
from nanochat.sources.local_files import check_regular

HEAD_BYTES = 4096
PARQUET = "a Parquet file"
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
SUFFIX_OF = {"gzip": ".gz", "zstd": ".zst", "bz2": ".bz2", "xz": ".xz", "lz4": ".lz4"}
MAGIC = {
    b"PAR1": PARQUET,
    b"PARE": "an encrypted Parquet file",
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"SQLite format 3\0": "an SQLite database",
    b"ARROW1\0\0": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x7fELF": "a program",
    b"\x1f\x9d": "a file compressed by `compress`",
    b"\x02\x21\x4c\x18": "lz4 of the legacy format",
    b"\xff\xfe\0\0": "UTF-32 text",
    b"\0\0\xfe\xff": "UTF-32 text",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer",
    b"/annex/objects/": "a git-annex pointer",
    b"# xet version": "a Xet pointer",
}
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""A zstd frame without data; `pzstd` writes one before each frame."""
MARKUP = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|error)\b", re.I | re.S)
HINTS = {
    PARQUET: "Give it a name that ends in `.parquet`.",
    "an encrypted Parquet file": "Decrypt it first.",
    "lz4 of the legacy format": "Decompress it with `lz4 -d`, and compress it again without `-l`.",
    "a Git LFS pointer": "The data itself is not here: run `git lfs pull`.",
    "a git-annex pointer": "The data itself is not here: run `git annex get`.",
    "a Xet pointer": "The data itself is not here: download it with `hf download`.",
    "an HTML or XML page": "The server sent a page instead of the data (a login or an error): download the file again.",
    "UTF-16 text": "Convert it with `iconv -f UTF-16 -t UTF-8`.",
    "UTF-32 text": "Convert it with `iconv -f UTF-32 -t UTF-8`.",
}


def kind_of(beginning: bytes) -> str:
    """The kind of data with this beginning: `gzip`, `a PDF`, …; empty if it may be text."""
    for magic, kind in COMPRESSED.items():
        if beginning.startswith(magic) and (kind != "bz2" or beginning[4:10] == b"1AY&SY"):
            return kind
    if SKIPPABLE.match(beginning):
        return "zstd"
    for magic, kind in MAGIC.items():
        if beginning.startswith(magic):
            return kind
    if beginning[257:262] == b"ustar":
        return "a tar archive"
    if MARKUP.match(beginning):
        return "an HTML or XML page"
    return _by_zeros(beginning)


def _by_zeros(beginning: bytes) -> str:
    """UTF-16 and UTF-32 without a byte order mark: in ASCII text, one byte of two is zero, or three of four."""
    share = beginning.count(0) / max(len(beginning), 1)
    if share < 0.2:
        return ""
    if share == 1:
        return "nothing but zero bytes"
    even, odd = (beginning[i::2].count(0) / max(len(beginning[i::2]), 1) for i in (0, 1))
    if share > 0.7:
        return "UTF-32 text"
    return "UTF-16 text" if min(even, odd) < 0.05 else "a binary file"


def wrong_kind(kind: str, name: str, wanted: str = "text") -> BadSource:
    """The error for a file whose content is not what its name promises."""
    return BadSource(f"`{name}` is {kind}, not {wanted}.", hint=HINTS.get(kind, "Remove it, or convert its data."))


def check_parquet(file: Path, name: str) -> None:
    """Raises `BadSource`, naming the kind of the file, unless it begins like Parquet."""
    with file.open("rb") as raw:
        beginning = raw.read(HEAD_BYTES)
    if (kind := kind_of(beginning)) != PARQUET:
        kind = kind or ("JSON" if beginning.lstrip()[:1] in (b"{", b"[") else "a file of another format")
        raise wrong_kind(kind, name, "a Parquet file")


BUFFER_BYTES = 1 << 20


@contextmanager
def open_text(file: Path, name: str = "") -> Iterator[BinaryIO]:
    """The decompressed bytes of a file of text; errors call the file `name`.

    Raises `BadSource` if the file is empty, damaged, truncated or not text, also while it is read.
    """
    name = name or str(file)
    with read_errors(file, name), file.open("rb") as raw:
        beginning = raw.read(HEAD_BYTES)
        raw.seek(0)
        compression = kind_of(beginning)
        if compression in SUFFIX_OF:
            with _decompressed(raw, compression) as stream:
                if kind := kind_of(stream.peek(HEAD_BYTES)[:HEAD_BYTES]):
                    raise wrong_kind(f"{kind} inside {compression}", name)
                yield cast(BinaryIO, stream)
            return
        if compression:
            raise wrong_kind(compression, name)
        if file.suffix.lower() in SUFFIX_OF.values():
            raise BadSource(
                f"`{name}` is damaged or truncated (its first bytes are not those of {file.suffix.lower()}).",
                hint="Fetch or write it again; if it is not compressed, remove the suffix from its name.",
            )
        yield raw


@contextmanager
def read_errors(file: Path, name: str) -> Iterator[None]:
    """Raises `BadSource` if the file is empty or not a regular file, and for errors while it is read."""
    try:
        check_regular(file)
        if file.stat().st_size == 0:
            raise BadSource(f"`{name}` is empty.", hint="Remove it, or fetch it again.")
        yield
    except (pa.ArrowException, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror and error.errno:
            raise BadSource(f"`{name}` cannot be read: {error.strerror}.", hint="Check its disk.") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if "requires too much memory" in reason:
            raise BadSource(
                f"`{name}` was compressed by `zstd --long` with a window over 128 MB, which is not supported.",
                hint="Decompress it with `zstd -d --long=31`, and compress it again without `--long`.",
            ) from error
        raise BadSource(f"`{name}` is damaged or truncated ({reason}).", hint="Fetch or write it again.") from error


def _decompressed(raw: BinaryIO, compression: str) -> io.BufferedReader:
    if compression == "gzip":  # reads concatenated members, and zero padding after the last one
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)), BUFFER_BYTES)
    if compression == "xz":
        return io.BufferedReader(_Xz(raw), BUFFER_BYTES)
    stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression)
    return io.BufferedReader(cast(io.RawIOBase, stream), BUFFER_BYTES)


class _Xz(io.RawIOBase):
    """Decompresses one or more xz streams, with or without zero padding between and after them.

    `lzma.LZMAFile` does not support the padding, and ignores trailing bytes that are not an xz stream.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._stream = lzma.LZMADecompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self._stream.eof:
                data = self._stream.unused_data.lstrip(b"\0")
                while not data and (chunk := self._raw.read(BUFFER_BYTES)):
                    data = chunk.lstrip(b"\0")
                if not data:
                    return 0
                self._stream = lzma.LZMADecompressor()
            elif self._stream.needs_input and not (data := self._raw.read(BUFFER_BYTES)):
                raise EOFError("it is truncated")
            if found := self._stream.decompress(data, len(buffer)):
                buffer[: len(found)] = found
                return len(found)
