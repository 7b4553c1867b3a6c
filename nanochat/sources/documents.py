"""Documents out of files: Parquet, JSON lines, plain text.

Every reader yields batches of documents as an Arrow array of strings: valid UTF-8, in the order of the file, nulls and
empty ones included. Whatever cannot be read is a `BadSource` that names the file and the place.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nanochat.errors import BadSource
from nanochat.sources.file_names import SUFFIXES, file_format, named
from nanochat.sources.file_signature import HEAD_BYTES, check_parquet, open_source, readable
from nanochat.sources.json_records import json_records, text_of

BATCH_DOCUMENTS = 1024
BATCH_CHARACTERS = 32 << 20
READ_BUFFER_BYTES = 1 << 20
PARAGRAPHS_CHARACTERS = 2_000
SHOWN_FIELDS = 20
"""Of a record, so many are named in a message."""
ADDRESS = re.compile(r"(?:[0-9a-f]{32,}\s+)?([a-z][a-z0-9+.-]*://[^\s?]+)(?:\?\S*)?", re.I)
LINE_CHARACTERS = 1 << 20


def read_documents(file: Path, text_column: str, name: str = "") -> Iterator[pa.StringArray]:
    """Batches of at most 1,024 documents of a file; `name` is what errors call it."""
    name = name or str(file)
    form = file_format(file.name)
    if not form:
        raise BadSource(f"`{name}` is not a file of text.", hint=f"Known formats: {SUFFIXES}.")
    reader = {".parquet": _parquet, ".txt": _plain_text}.get(form, _json)
    with readable(file, name):
        yield from reader(file, text_column, name)


def _parquet(file: Path, text_column: str, name: str) -> Iterator[pa.StringArray]:
    check_parquet(file, name)
    with open_parquet(file) as parquet:
        _check_text_column(parquet.schema_arrow, text_column, name)
        _check_not_encrypted(parquet, text_column, name)
        documents = 0
        for batch in parquet.iter_batches(batch_documents(parquet, text_column), columns=[text_column]):
            # by its name: where a column is called `a.b`, the field `b` of a column `a` is read with it
            texts = batch.column(batch.schema.get_field_index(text_column))
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
    """How many documents to read at once, so that long ones do not fill the memory.

    The limit is `BATCH_CHARACTERS`, divided by the mean length in the row group with the longest documents.
    """
    metadata = parquet.metadata
    place = _leaf_of(parquet.schema_arrow, column)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    bytes_each = [group.column(place).total_uncompressed_size / max(group.num_rows, 1) for group in groups]
    return max(1, min(BATCH_DOCUMENTS, int(BATCH_CHARACTERS / max([1.0, *bytes_each]))))


def _leaf_of(schema: pa.Schema, column: str) -> int:
    """Where the values of a top-level column are among those that the file stores; nested columns have several."""

    def leaves(kind: pa.DataType) -> int:
        if pa.types.is_struct(kind):
            return sum(leaves(kind.field(i).type) for i in range(kind.num_fields))
        if pa.types.is_map(kind):
            return leaves(kind.key_type) + leaves(kind.item_type)
        if isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
            return leaves(kind.value_type)
        return leaves(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else 1

    return sum(leaves(schema.field(i).type) for i in range(schema.get_field_index(column)))


def _check_text_column(schema: pa.Schema, text_column: str, name: str) -> None:
    """Raises `BadSource` naming the columns there are, unless `text_column` is one, once, and holds strings."""
    there = ", ".join(f"`{column}`" for column in schema.names)
    if text_column not in schema.names:
        raise BadSource(
            f"`{name}` has no column `{text_column}`; it has {there or 'none'}.",
            hint="Name the one that holds the text with `data.text_column=…`; it cannot be a part of another column.",
        )
    if schema.names.count(text_column) > 1:
        raise BadSource(
            f"`{name}` has {schema.names.count(text_column)} columns `{text_column}`.",
            hint="Write it again with one of them under another name.",
        )
    kind = schema.field(text_column).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    strings = pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)
    if not strings and not pa.types.is_null(plain):  # without a single value, some writers know no type
        raise BadSource(
            f"The column `{text_column}` of `{name}` holds {kind}, not text.",
            hint=f"Name another with `data.text_column=…`, or write this one as strings; there are {there}.",
        )


def _check_not_encrypted(parquet: pq.ParquetFile, text_column: str, name: str) -> None:
    """Reads one row, which fails with an error: asked for its size, an encrypted column ends the process."""
    try:
        next(parquet.iter_batches(1, row_groups=[0][: parquet.num_row_groups], columns=[text_column]), None)
    except OSError as error:
        if "decrypt" in str(error).lower():
            raise BadSource(
                f"The column `{text_column}` of `{name}` is encrypted.", hint="Decrypt it first."
            ) from error
        raise


def _json(file: Path, text_column: str, name: str) -> Iterator[pa.StringArray]:
    fields: set[str] = set()
    found = False
    waiting = _Batch()
    for where, record in json_records(file, name):
        if not isinstance(record, dict):
            raise BadSource(f"{where} is not a JSON object.", hint=f'A record is `{{"{text_column}": "…"}}`.')
        found = found or text_column in record
        if not found and len(fields) < SHOWN_FIELDS:
            fields.update(record)
        text = record.get(text_column)
        if text is not None and not isinstance(text, str):
            raise BadSource(
                f"{where} has a field `{text_column}` that is not text.",
                hint="Name another with `data.text_column=…`.",
            )
        yield from waiting.add(text_of(text, where) if text else text)
    if fields and not found:
        raise BadSource(
            f"`{name}` has no field `{text_column}`; it has {named(fields, SHOWN_FIELDS)}.",
            hint="Name the one that holds the text with `data.text_column=…`; it cannot be a part of another field.",
        )
    yield from waiting.rest()


def _plain_text(file: Path, text_column: str, name: str) -> Iterator[pa.StringArray]:
    """Paragraphs (ended by a blank line), gathered until they are 2,000 characters, are a document.

    A text file says nothing of documents: a book should not be one, nor each of its paragraphs.
    """
    waiting = _Batch()
    lines: list[str] = []
    characters = 0
    found = False
    with open_source(file, name) as stream:
        _check_no_list(stream, name)
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="strict")
        try:
            while line := text.readline(LINE_CHARACTERS):
                lines.append(line)
                characters += len(line)
                blank = not line.strip()
                if (blank and characters >= PARAGRAPHS_CHARACTERS) or characters >= LINE_CHARACTERS:
                    if document := "".join(lines).strip():
                        found = True
                        yield from waiting.add(document)
                    lines, characters = [], 0
        except UnicodeDecodeError as error:
            raise BadSource(
                f"`{name}`, {_line_that_is_not_utf8(file, name)}.",
                hint="Convert it, for example with `iconv -f latin1 -t utf-8`.",
            ) from error
    if last := "".join(lines).strip():
        yield from waiting.add(last)
    elif not found:
        raise BadSource(f"`{name}` has no document with text: it is blank.", hint="Remove it from the source.")
    yield from waiting.rest()


def _check_no_list(stream: BinaryIO, name: str) -> None:
    """Raises `BadSource` for a list of addresses of data, by its beginning."""
    beginning = cast(io.BufferedReader, stream).peek(HEAD_BYTES)[:HEAD_BYTES]
    lines = beginning.decode(errors="replace").split("\n")
    if len(beginning) == HEAD_BYTES:
        lines.pop()  # may be cut
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    addresses = [match[1] for line in lines if (match := ADDRESS.fullmatch(line))]
    if lines and len(addresses) == len(lines) and all(file_format(address) for address in addresses):
        raise BadSource(
            f"`{name}` is a list of addresses, not text.",
            hint="A list is read where `data.source` is its own address, `https://….txt`; or fetch the files into a "
            "folder, for example with `wget -i`, and name that.",
        )


def _line_that_is_not_utf8(file: Path, name: str) -> str:
    with open_source(file, name) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number:,}, is not UTF-8: {error.reason} (byte 0x{line[error.start]:02x})"
    return "is not UTF-8"


def byte_lengths(texts: pa.StringArray) -> pa.Int32Array:
    """UTF-8 bytes of each document; null stays null."""
    return pc.call_function("binary_length", [texts])


def total_bytes(texts: pa.StringArray) -> int:
    return pc.call_function("sum", [byte_lengths(texts)]).as_py() or 0


def total_characters(texts: pa.StringArray) -> int:
    return pc.call_function("sum", [pc.call_function("utf8_length", [texts])]).as_py() or 0


def with_text(batch: pa.StringArray) -> pa.StringArray:
    """Those documents that are neither null nor empty."""
    return batch.filter(pc.call_function("greater", [byte_lengths(batch), pa.scalar(0)]))


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
