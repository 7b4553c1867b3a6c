"""Your own conversations: JSON lines or Parquet, one file or a folder of them, or a dataset of the hub.

A row has any of the forms in `formats.py`. Every tenth, beginning with the first, is the validation split.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.errors import BadConfig, BadSource
from nanochat.tasks.conversation import Conversation, Split, Task
from nanochat.tasks.formats import FIELDS, conversation_of
from nanochat.tasks.hub import hub_rows

EVERY = 10
LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst")
SUFFIXES = (*LINES, ".parquet")


def task(source: str) -> Task:
    if not source:
        raise BadConfig(
            "The task `conversations` needs a `source`.",
            hint="Name a JSONL or Parquet file, a folder of them, or a dataset: `hf://org/name`.",
        )

    def conversations(split: Split) -> Iterator[Conversation]:
        for number, (where, row) in enumerate(_rows(source)):
            if (number % EVERY == 0) == (split == "validation"):
                yield conversation_of(row, where)

    return Task("conversations", conversations)


def _rows(source: str) -> Iterator[tuple[str, Any]]:
    if source.startswith("hf://"):
        yield from hub_rows(source, "", None, "train")
        return
    place = Path(source).expanduser()
    if not place.exists():
        raise BadSource(f"There is no file or folder `{source}` of conversations.", hint="Is the path right?")
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    files = [file for file in files if file.name.endswith(SUFFIXES)]
    if not files:
        raise BadSource(
            f"`{source}` is no file of conversations and no folder of them.",
            hint=f"Files end in {', '.join(f'`{suffix}`' for suffix in SUFFIXES)}.",
        )
    for file in files:
        yield from _parquet(file) if file.suffix == ".parquet" else _lines(file)


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        with io.BufferedReader(pa.input_stream(str(file))) as lines:  # pyright: ignore[reportArgumentType]
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"`{file}`, line {number},", _parsed(line, file, number)
    except (OSError, pa.ArrowException) as error:
        raise BadSource(f"`{file}` cannot be read: {str(error).splitlines()[0]}.") from error


def _parsed(line: bytes, file: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:  # wrong JSON, or not UTF-8
        raise BadSource(f"`{file}`, line {number}, is not JSON ({error}).", hint="One object a line.") from error


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        with pq.ParquetFile(file) as parquet:
            columns = [name for name in parquet.schema_arrow.names if name in FIELDS]
            if not columns:
                conversation_of(dict.fromkeys(parquet.schema_arrow.names), f"`{file}`")
            number = 0
            for batch in parquet.iter_batches(1024, columns=columns):
                for row in batch.to_pylist():
                    yield f"`{file}`, row {number},", row
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise BadSource(f"`{file}` cannot be read: {str(error).splitlines()[0]}") from error
