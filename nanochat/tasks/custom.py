"""Your own conversations: JSON lines or Parquet with a `messages` field, one file or a folder of them.

Every tenth row, beginning with the first, is the validation split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.errors import BadConfig, BadSource
from nanochat.tasks.conversation import Conversation, Split, Task, checked

EVERY = 10
SUFFIXES = (".jsonl", ".ndjson", ".parquet")


def task(source: str) -> Task:
    if not source:
        raise BadConfig(
            "The task `conversations` needs a `source`.", hint="Name a JSONL or Parquet file, or a folder of them."
        )

    def conversations(split: Split) -> Iterator[Conversation]:
        for number, (where, row) in enumerate(_rows(Path(source).expanduser())):
            if (number % EVERY == 0) == (split == "validation"):
                yield checked(row, where)

    return Task("conversations", conversations)


def _rows(source: Path) -> Iterator[tuple[str, Any]]:
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    files = [file for file in files if file.suffix in SUFFIXES]
    if not files:
        raise BadSource(
            f"`{source}` is no file of conversations and no folder of them.",
            hint=f"Files end in {', '.join(f'`{suffix}`' for suffix in SUFFIXES)}.",
        )
    for file in files:
        yield from _parquet(file) if file.suffix == ".parquet" else _lines(file)


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"`{file}`, line {number},", _parsed(line, file, number)
    except OSError as error:
        raise BadSource(f"`{file}` cannot be read: {error.strerror}.") from error


def _parsed(line: bytes, file: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:  # wrong JSON, or not UTF-8
        raise BadSource(f"`{file}`, line {number}, is not JSON ({error}).", hint="One object a line.") from error


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        with pq.ParquetFile(file) as parquet:
            if "messages" not in parquet.schema_arrow.names:
                names = ", ".join(f"`{name}`" for name in parquet.schema_arrow.names)
                raise BadSource(f"`{file}` has no column `messages` (it has {names}).")
            number = 0
            for batch in parquet.iter_batches(1024, columns=["messages"]):
                for row in batch.to_pylist():
                    yield f"`{file}`, row {number},", row
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise BadSource(f"`{file}` cannot be read: {str(error).splitlines()[0]}") from error
