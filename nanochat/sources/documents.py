"""Reads documents from Parquet, JSON and plain text files.

Every reader yields batches of documents as Arrow arrays of strings: valid UTF-8, in the order of the file, with nulls
and empty documents. Unreadable data raises `BadSource`, which names the file and the place.
"""

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nanochat.errors import BadSource
from nanochat.sources.file_contents import HEAD_BYTES, check_parquet, open_text, read_errors
from nanochat.sources.file_names import SUFFIXES, file_format, quoted_names
from nanochat.sources.json_records import check_text, json_records

BATCH_DOCUMENTS = 1024
BATCH_CHARACTERS = 32 << 20
READ_BUFFER_BYTES = 1 << 20
PARAGRAPHS_CHARACTERS = 2_000
SHOWN_FIELDS = 20
"""Fields of a record that a message lists."""
ADDRESS = re.compile(r"(?:[0-9a-f]{32,}\s+)?([a-z][a-z0-9+.-]*://[^\s?]+)(?:\?\S*)?", re.I)
LINE_CHARACTERS = 1 << 20


def read_documents(file: Path, text_column: str, name: str = "") -> Iterator[pa.StringArray]:
    """Batches (documents,) of at most 1,024 documents of a file; errors call the file `name`."""
    name = name or str(file)
    form = file_format(file.name)
    if not form:
        raise BadSource(f"`{name}` is not a text file.", hint=f"Known formats: {SUFFIXES}.")
    reader = {".parquet": _parquet, ".txt": _plain_text}.get(form, _json)
    with read_errors(file, name):
        yield from reader(file, text_column, name)


def _parquet(file: Path, text_column: str, name: str) -> Iterator[pa.StringArray]:
    check_parquet(file, name)
    with open_parquet(file) as parquet:
        _check_text_column(parquet.schema_arrow, text_column, name)
        _check_not_encrypted(parquet, text_column, name)
        documents = 0
        for batch in parquet.iter_batches(batch_documents(parquet, text_column), columns=[text_column]):
            # by name: for a column `a.b`, Arrow also reads the field `b` of a column `a`
            texts = batch.column(batch.schema.get_field_index(text_column))
            if not pa.types.is_string(texts.type):
                texts = texts.cast(pa.string())
            texts.validate(full=True)  # the schema does not guarantee UTF-8
            documents += len(texts)
            yield texts
        if documents != parquet.metadata.num_rows:
            raise BadSource(
                f"`{name}` has {documents:,} rows, but its footer has a count of {parquet.metadata.num_rows:,}.",
                hint="Fetch or write it again.",
            )


def open_parquet(file: Path) -> pq.ParquetFile:
    """Opens a file for reading in small pieces: Arrow's defaults would hold one or all row groups in memory."""
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
    """Index of a top-level column among the leaf columns that the file stores; a nested column has several."""

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
    """Raises `BadSource`, listing the columns, unless exactly one is `text_column` and contains strings."""
    columns = ", ".join(f"`{column}`" for column in schema.names)
    if text_column not in schema.names:
        raise BadSource(
            f"`{name}` has no column `{text_column}`; it has {columns or 'none'}.",
            hint="Name the text column with `data.text_column=…`; it cannot be a part of another column.",
        )
    if schema.names.count(text_column) > 1:
        raise BadSource(
            f"`{name}` has {schema.names.count(text_column)} columns `{text_column}`.", hint="Rename one of them."
        )
    kind = schema.field(text_column).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    strings = pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)
    if not strings and not pa.types.is_null(plain):  # without any value, some writers set no type
        raise BadSource(
            f"The column `{text_column}` of `{name}` has the type {kind}, not text.",
            hint=f"Name another with `data.text_column=…`, or convert this one to strings; the columns are {columns}.",
        )


def _check_not_encrypted(parquet: pq.ParquetFile, text_column: str, name: str) -> None:
    """Reads one row, which raises an error for an encrypted column; reading its size would crash the process."""
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
                f"{where} has a field `{text_column}` that is not text.", hint="Name another with `data.text_column=…`."
            )
        yield from waiting.add(check_text(text, where) if text else text)
    if fields and not found:
        raise BadSource(
            f"`{name}` has no field `{text_column}`; it has {quoted_names(fields, SHOWN_FIELDS)}.",
            hint="Name the text field with `data.text_column=…`; it cannot be a part of another field.",
        )
    yield from waiting.rest()


def _plain_text(file: Path, text_column: str, name: str) -> Iterator[pa.StringArray]:
    """Joins paragraphs, which end with a blank line, into documents of at least 2,000 characters.

    A text file does not mark its documents: neither a whole book nor each of its paragraphs should be one.
    """
    waiting = _Batch()
    lines: list[str] = []
    characters = 0
    found = False
    with open_text(file, name) as stream:
        _check_not_address_list(stream, name)
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
                f"`{name}`, {_find_bad_line(file, name)}.",
                hint="Convert it, for example with `iconv -f latin1 -t utf-8`.",
            ) from error
    if last := "".join(lines).strip():
        yield from waiting.add(last)
    elif not found:
        raise BadSource(f"`{name}` has only white space.", hint="Remove it from the source.")
    yield from waiting.rest()


def _check_not_address_list(stream: BinaryIO, name: str) -> None:
    """Raises `BadSource` if the file begins like a list of addresses of data."""
    beginning = cast(io.BufferedReader, stream).peek(HEAD_BYTES)[:HEAD_BYTES]
    lines = beginning.decode(errors="replace").split("\n")
    if len(beginning) == HEAD_BYTES:
        lines.pop()  # may be incomplete
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    addresses = [match[1] for line in lines if (match := ADDRESS.fullmatch(line))]
    if lines and len(addresses) == len(lines) and all(file_format(address) for address in addresses):
        raise BadSource(
            f"`{name}` is a list of addresses, not text.",
            hint="A list is read if `data.source` is its address, `https://….txt`; or download the files, for example "
            "with `wget -i`, and use their folder.",
        )


def _find_bad_line(file: Path, name: str) -> str:
    with open_text(file, name) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number:,}, is not UTF-8: {error.reason} (byte 0x{line[error.start]:02x})"
    return "is not UTF-8"


def byte_lengths(texts: pa.StringArray) -> pa.Int32Array:
    """UTF-8 bytes of each document (documents,); null stays null."""
    return pc.call_function("binary_length", [texts])


def total_bytes(texts: pa.StringArray) -> int:
    return pc.call_function("sum", [byte_lengths(texts)]).as_py() or 0


def total_characters(texts: pa.StringArray) -> int:
    return pc.call_function("sum", [pc.call_function("utf8_length", [texts])]).as_py() or 0


def with_text(batch: pa.StringArray) -> pa.StringArray:
    """The documents that are neither null nor empty."""
    return batch.filter(pc.call_function("greater", [byte_lengths(batch), pa.scalar(0)]))


class _Batch:
    """Collects documents into arrays."""

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
    """Batches of documents that come one by one."""
    waiting = _Batch()
    for text in texts:
        yield from waiting.add(text)
    yield from waiting.rest()
