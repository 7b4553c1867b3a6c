"""Documents out of files: Parquet, JSON lines, plain text.

Every reader yields batches of documents as an Arrow array of strings: valid UTF-8, in the order of the file, nulls and
empty ones included. Whatever cannot be read is a `BadSource` that names the file and the place.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nanochat.errors import BadSource

BATCH_DOCUMENTS = 1024
BATCH_CHARACTERS = 32 << 20
READ_BUFFER_BYTES = 1 << 20
PARAGRAPHS_CHARACTERS = 2_000
LINE_CHARACTERS = 1 << 20
FORMATS = (".parquet", ".jsonl", ".ndjson", ".txt")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def file_format(name: str) -> str:
    """`.parquet`, `.jsonl`, `.ndjson` or `.txt`, without regard to `.gz` and `.zst`; empty for another file."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def stem(name: str) -> str:
    """The name without its format: `a/shard_0.jsonl.gz` → `a/shard_0`."""
    low = name.lower()
    for compression in ("", *COMPRESSIONS):
        for suffix in FORMATS:
            if low.endswith(suffix + compression):
                return name[: -len(suffix + compression)]
    return name


def read_documents(file: Path, text_column: str, name: str = "") -> Iterator[pa.StringArray]:
    """Batches of at most 1,024 documents of a file; `name` is what errors call it."""
    name = name or str(file)
    readers = {".parquet": _parquet, ".jsonl": _json_lines, ".ndjson": _json_lines, ".txt": _plain_text}
    if not (reader := readers.get(file_format(file.name))):
        raise BadSource(f"`{name}` is not a file of text.", hint=f"We read {', '.join(FORMATS)} (also .gz and .zst).")
    try:
        if file.stat().st_size == 0:
            raise BadSource(f"`{name}` is empty.", hint="Remove it, or fetch it again.")
        yield from reader(file, text_column, name)
    except UnicodeDecodeError as error:
        raise BadSource(
            f"`{name}` is not UTF-8: {error.reason} (byte 0x{error.object[error.start]:02x}).",
            hint="Convert it, for example with `iconv -f latin1 -t utf-8`.",
        ) from error
    except (pa.ArrowException, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise BadSource(f"`{name}` cannot be read: {error.strerror}.") from error
        raise BadSource(
            f"`{name}` is damaged or truncated ({str(error).splitlines()[0].rstrip('.')}).",
            hint="Fetch or write it again.",
        ) from error


def _parquet(file: Path, text_column: str, name: str) -> Iterator[pa.StringArray]:
    with open_parquet(file) as parquet:
        _check_text_column(parquet.schema_arrow, text_column, name)
        documents = 0
        for batch in parquet.iter_batches(batch_documents(parquet, text_column), columns=[text_column]):
            texts = batch.column(0)
            if not pa.types.is_string(texts.type):
                texts = texts.cast(pa.string())
            texts.validate(full=True)  # the bytes may not be UTF-8, whatever the schema says
            documents += len(texts)
            yield texts
        if documents != parquet.metadata.num_rows:
            raise BadSource(
                f"`{name}` has {documents:,} rows, where its footer says {parquet.metadata.num_rows:,}.",
                hint="Fetch or write it again.",
            )


def open_parquet(file: Path) -> pq.ParquetFile:
    """Read piece by piece: as it comes, Arrow would hold whole row groups, or all of them, before the first batch."""
    return pq.ParquetFile(file, buffer_size=READ_BUFFER_BYTES, pre_buffer=False)


def batch_documents(parquet: pq.ParquetFile, column: str) -> int:
    """Documents to read at once, so that long ones do not fill the memory: of the row group with the longest ones, by
    its mean, no more than `BATCH_CHARACTERS`."""
    metadata = parquet.metadata
    place = metadata.schema.names.index(column)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    bytes_each = [group.column(place).total_uncompressed_size / max(group.num_rows, 1) for group in groups]
    return max(1, min(BATCH_DOCUMENTS, int(BATCH_CHARACTERS / max([1.0, *bytes_each]))))


def _check_text_column(schema: pa.Schema, text_column: str, name: str) -> None:
    """Raises `BadSource` naming the columns there are, unless `text_column` is one and holds strings."""
    there = ", ".join(f"`{column}`" for column in schema.names)
    if text_column not in schema.names:
        raise BadSource(
            f"`{name}` has no column `{text_column}`; it has {there or 'none'}.",
            hint="Name the one that holds the text with `data.text_column=…`.",
        )
    kind = schema.field(text_column).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)):
        raise BadSource(
            f"The column `{text_column}` of `{name}` holds {kind}, not text.",
            hint=f"Name another with `data.text_column=…`; there are {there}.",
        )


def _json_lines(file: Path, text_column: str, name: str) -> Iterator[pa.StringArray]:
    fields: set[str] = set()
    waiting = _Batch()
    with _open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadSource(f"Line {number} of `{name}` is not JSON: {error.msg}.") from error
            if not isinstance(record, dict):
                raise BadSource(f"Line {number} of `{name}` is not a JSON object.")
            fields.update(record)
            text = record.get(text_column)
            if text is not None and not isinstance(text, str):
                raise BadSource(
                    f"The field `{text_column}` in line {number} of `{name}` is not text.",
                    hint="Name another with `data.text_column=…`.",
                )
            yield from waiting.add(_without_surrogates(text, number, name) if text else text)
    if fields and text_column not in fields:
        there = ", ".join(f"`{field}`" for field in sorted(fields))
        raise BadSource(
            f"`{name}` has no field `{text_column}`; it has {there}.",
            hint="Name the one that holds the text with `data.text_column=…`.",
        )
    yield from waiting.rest()


def _without_surrogates(text: str, number: int, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadSource(f"Line {number} of `{name}` has half of a surrogate pair, which is no character.") from error
    return text


def _plain_text(file: Path, text_column: str, name: str) -> Iterator[pa.StringArray]:
    """Paragraphs (ended by a blank line), gathered until they are 2,000 characters, are a document.

    A text file says nothing of documents: a book should not be one, nor each of its paragraphs.
    """
    waiting = _Batch()
    lines: list[str] = []
    characters = 0
    with _open_text(file) as text:
        while line := text.readline(LINE_CHARACTERS):
            lines.append(line)
            characters += len(line)
            blank = not line.strip()
            if (blank and characters >= PARAGRAPHS_CHARACTERS) or characters >= LINE_CHARACTERS:
                if document := "".join(lines).strip():
                    yield from waiting.add(document)
                lines, characters = [], 0
    if last := "".join(lines).strip():
        yield from waiting.add(last)
    yield from waiting.rest()


def _open_text(file: Path) -> io.TextIOWrapper:
    stream = pa.input_stream(str(file), compression=COMPRESSIONS.get(file.suffix.lower()), buffer_size=1 << 20)
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="strict")


def byte_lengths(texts: pa.StringArray) -> pa.Int32Array:
    """UTF-8 bytes of each document; null stays null."""
    return pc.call_function("binary_length", [texts])


def total_bytes(texts: pa.StringArray) -> int:
    return pc.call_function("sum", [byte_lengths(texts)]).as_py() or 0


def total_characters(texts: pa.StringArray) -> int:
    return pc.call_function("sum", [pc.call_function("utf8_length", [texts])]).as_py() or 0


class _Batch:
    """Gathers documents into arrays."""

    def __init__(self) -> None:
        self._texts: list[str | None] = []
        self._characters = 0

    def add(self, text: str | None) -> Iterator[pa.StringArray]:
        self._texts.append(text)
        self._characters += len(text or "")
        if len(self._texts) >= BATCH_DOCUMENTS or self._characters >= BATCH_CHARACTERS:
            yield from self.rest()

    def rest(self) -> Iterator[pa.StringArray]:
        if self._texts:
            yield pa.array(self._texts, pa.string())
        self._texts, self._characters = [], 0


def from_texts(texts: Iterable[str | None]) -> Iterator[pa.StringArray]:
    """The same batches, of documents that come one by one."""
    waiting = _Batch()
    for text in texts:
        yield from waiting.add(text)
    yield from waiting.rest()
