"""What HTTP servers do to bytes for the way (`Content-Encoding`), undone."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from nanochat.errors import BadSource, DamagedTransfer

CHUNK_BYTES = 1 << 20
SUFFIX_OF = {"gzip": ".gz", "zstd": ".zst"}


def sent_as(headers: Mapping[str, str]) -> list[str]:
    """What was done to the bytes for the way, the last first."""
    said = [each.strip().lower() for each in headers.get("Content-Encoding", "").split(",")]
    return [each.removeprefix("x-") for each in reversed(said) if each not in ("", "identity")]


def to_undo(headers: Mapping[str, str], local: Path) -> list[str]:
    """What is to be undone: not what the file's suffix says, too, as where a server takes `.gz` for an encoding."""
    encodings = sent_as(headers)
    return [] if [SUFFIX_OF.get(each) for each in encodings] == [local.suffix.lower()] else encodings


def decode(part: Path, decoded: Path, encodings: list[str], url: str) -> None:
    """Undoes what a server did to the bytes for the way."""
    if unknown := [each for each in encodings if each not in ("gzip", "deflate", "br", "zstd")]:
        raise BadSource(
            f"{url} is sent with the encoding `{unknown[0]}`, which is unknown.", hint="Fetch it into a folder first."
        )
    try:
        with ExitStack() as stack:
            stream: Any = stack.enter_context(part.open("rb"))
            for encoding in encodings:
                if encoding == "gzip":
                    stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
                elif encoding == "deflate":
                    stream = _Inflated(stream)
                else:
                    codec = {"br": "brotli", "zstd": "zstd"}[encoding]
                    stream = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec))
            file = stack.enter_context(decoded.open("wb"))
            while chunk := stream.read(CHUNK_BYTES):
                file.write(chunk)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:  # of our disk
            raise
        raise DamagedTransfer(
            f"{url} is damaged: it is not {', '.join(encodings)}, as the server says ({error}).",
            hint="Fetch it again; if that does not help, it is damaged where it lies.",
        ) from error


class _Inflated:
    """Bytes of a zlib stream, or of one without its header, as some servers send."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._inflate: Any = None

    def read(self, size: int) -> bytes:
        while chunk := self._stream.read(size):
            if self._inflate is None:
                has_header = chunk[0] & 15 == 8 and int.from_bytes(chunk[:2], "big") % 31 == 0
                self._inflate = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
            if data := self._inflate.decompress(chunk):
                return data
        if self._inflate is not None and not self._inflate.eof:
            raise EOFError("it is cut off")
        return b""
