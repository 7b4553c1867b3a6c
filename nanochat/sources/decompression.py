"""Opens files of text, decompressed by what their first bytes are, and turns damage into our errors."""

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from nanochat.errors import BadSource
from nanochat.sources.file_signature import HEAD_BYTES, SUFFIX_OF, kind_of, wrong_kind
from nanochat.sources.local_files import check_regular

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
