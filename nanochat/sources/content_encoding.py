"""Decodes what an HTTP server encoded for the transfer (`Content-Encoding`)."""

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


def encodings_of(headers: Mapping[str, str]) -> list[str]:
    """The encodings of a response, the one applied last first."""
    encodings = [each.strip().lower() for each in headers.get("Content-Encoding", "").split(",")]
    return [each.removeprefix("x-") for each in reversed(encodings) if each not in ("", "identity")]


def encodings_to_decode(headers: Mapping[str, str], local: Path) -> list[str]:
    """The encodings to undo: none if a server only repeats the file's own suffix (`.gz`) as an encoding."""
    encodings = encodings_of(headers)
    return [] if [SUFFIX_OF.get(each) for each in encodings] == [local.suffix.lower()] else encodings


def decode(part: Path, decoded: Path, encodings: list[str], url: str) -> None:
    """Decodes `part` into `decoded`. Raises `BadSource` for an unknown encoding, `DamagedTransfer` for bad bytes."""
    if unknown := [each for each in encodings if each not in ("gzip", "deflate", "br", "zstd")]:
        raise BadSource(
            f"{url} is sent with the unknown encoding `{unknown[0]}`.", hint="Download it into a folder and use that."
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
        if isinstance(error, OSError) and error.errno:  # of the local disk
            raise
        raise DamagedTransfer(
            f"{url} is damaged: it is not {', '.join(encodings)}, as its header states ({error}).",
            hint="Fetch it again; if that does not help, the source itself is damaged.",
        ) from error


class _Inflated:
    """Decodes a zlib stream. Some servers send one without its header."""

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
            raise EOFError("it is truncated")
        return b""
