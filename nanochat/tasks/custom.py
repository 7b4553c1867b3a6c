"""Your own conversations: JSON or Parquet, one file or a folder of them, or a dataset of the Hub.

A row has any of the forms in `formats.py`. If a file is named for a validation split, those files are the validation
split and all others are for training. Otherwise it is every tenth row, beginning with the first. Files named for a test
split are not read, unless `source` names one itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nanochat.errors import BadConfig, BadSource
from nanochat.sources.files import LocalFile, list_local
from nanochat.sources.first_bytes import HEAD_BYTES, PARQUET, kind_of, not_what_it_says, readable
from nanochat.sources.names import CHAT_FORMATS
from nanochat.sources.records import json_records
from nanochat.tasks.conversation import Conversation, Split, Task
from nanochat.tasks.fields import FieldRules, is_neutral
from nanochat.tasks.formats import conversation_of
from nanochat.tasks.hub import hub_rows

EVERY = 10
BATCH_ROWS = 1024
LOG = logging.getLogger("nanochat.conversations")


def task(source: str, rules: FieldRules) -> Task:
    if not source:
        raise BadConfig(
            "The task `conversations` needs a `source`.",
            hint="Name a JSON or Parquet file, a folder of them, or a dataset: `hf://org/name`.",
        )

    def conversations(split: Split) -> Iterator[Conversation]:
        for where, row in _rows_of(source, split, rules):
            if conversation := conversation_of(row, where, rules, split):
                yield conversation

    return Task("conversations", conversations)


def _rows_of(source: str, split: Split, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    if source.startswith("hf://"):
        yield from _tenth(hub_rows(source, "", None, "train"), split, rules)
        return
    if "://" in source:
        raise BadSource(
            f"The task `conversations` cannot read the address `{source}`.",
            hint="It reads files of this machine and `hf://org/name[@revision]`: fetch others into a folder first.",
        )
    found = list_local(Path(source).expanduser(), CHAT_FORMATS)
    if found.skipped:
        LOG.info("%s: files that are not read: %s", source, found.skipped)
    for reason, paths in found.skipped.files.items():
        rules.counts.ignored_files[reason] += len(paths)
    held_out = [each for each in found.files if each.split == "validation"]
    if not held_out:
        yield from _tenth(_rows(found.files, rules), split, rules)
        return
    files = held_out if split == "validation" else [each for each in found.files if each not in held_out]
    if not files:
        raise BadSource(
            f"`{source}` has only files named for a validation split, and none to train on.",
            hint="Name the file differently to train on it.",
        )
    yield from _rows(files, rules)


def _tenth(rows: Iterator[tuple[str, Any]], split: Split, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    """Every tenth row for validation, the others for training."""
    for number, row in enumerate(rows):
        if (number % EVERY == 0) == (split == "validation"):
            yield row
        else:
            rules.counts.other_split_rows += 1


def _rows(files: list[LocalFile], rules: FieldRules) -> Iterator[tuple[str, Any]]:
    for each in files:
        yield from _parquet(each.file, rules) if each.file.suffix.lower() == ".parquet" else json_records(each.file)


def _check_beginning(file: Path) -> None:
    with readable(file, str(file)), file.open("rb") as raw:
        if (kind := kind_of(raw.read(HEAD_BYTES))) not in ("", PARQUET):
            raise not_what_it_says(kind, str(file), "a Parquet file")


def _parquet(file: Path, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    """The rows of a file, without the columns that are ignored whatever is in them."""
    _check_beginning(file)
    with readable(file, str(file)), pq.ParquetFile(file) as parquet:
        names = parquet.schema_arrow.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadSource(f"`{file}` has two columns `{twice[0]}`.", hint="Rename or remove one.")
        neutral = [name for name in names if is_neutral(name)]
        columns = [name for name in names if name not in neutral] or names
        number = 0
        for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
            rules.counts.ignored_fields.update(dict.fromkeys(neutral, batch.num_rows))
            try:
                rows = batch.to_pylist(maps_as_pydicts="strict")
            except (ValueError, OverflowError, KeyError) as error:  # a time that Python cannot hold, a key twice
                raise BadSource(f"`{file}`, rows from {number:,} on, cannot be read: {error}.") from error
            for row in rows:
                yield f"`{file}`, row {number:,},", row
                number += 1
