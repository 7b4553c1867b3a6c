"""The user's own conversations: a JSON or Parquet file, a folder of them, or a dataset of the Hub.

A row has any of the forms in `chat_rows.py`. Files whose name means validation are the validation split, and all others
are for training. If there is no such file, every tenth row, beginning with the first, is for validation. Files whose
name means a test split are not read, unless `source` names one itself.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.errors import BadConfig, BadSource
from nanochat.sources.file_contents import check_parquet, read_errors
from nanochat.sources.file_names import CHAT_FORMATS
from nanochat.sources.json_records import json_records
from nanochat.sources.local_files import LocalFile, is_local, list_local, local_path
from nanochat.tasks.chat_rows import conversation_of, conversations_of
from nanochat.tasks.conversation import Conversation, Split, Task
from nanochat.tasks.fields import Counts, FieldRules, UnreadFields, is_neutral
from nanochat.tasks.hub_rows import hub_rows
from nanochat.tasks.row_reader import READ

VALIDATION_EVERY = 10
BATCH_ROWS = 1024
LOG = logging.getLogger("nanochat.conversations")


def task(source: str, rules: FieldRules) -> Task:
    if not source:
        raise BadConfig(
            "The task `conversations` needs a `source`.",
            hint="Set it to a JSON or Parquet file, a folder of them, or a dataset: `hf://org/name`.",
        )

    def conversations(split: Split) -> Iterator[Conversation]:
        return conversations_of(_rows_of(source, split, rules), rules, split)

    return Task("conversations", conversations)


def _rows_of(source: str, split: Split, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    if source.startswith("hf://"):
        yield from _every_tenth(hub_rows(source, "", None, "train"), split, rules)
        return
    if not is_local(source):
        raise BadSource(
            f"The task `conversations` cannot read the address `{source}`.",
            hint="It reads local files and `hf://org/name[@revision]`: download others into a folder.",
        )
    found = list_local(local_path(source), CHAT_FORMATS, "A dataset of the Hub is `hf://org/name`.")
    if found.skipped:
        LOG.info("%s: files that are not read: %s", source, found.skipped)
    for reason, paths in found.skipped.files.items():
        rules.counts.ignored_files[reason] += len(paths)
    held_out = [each for each in found.files if each.split == "validation"]
    if not held_out:
        yield from _every_tenth(_rows(found.files, rules), split, rules)
        return
    files = held_out if split == "validation" else [each for each in found.files if each not in held_out]
    if not files:
        raise BadSource(
            f"`{source}` has only files of a validation split, and none to train on.",
            hint="Rename the file to train on it.",
        )
    yield from _rows(files, rules)


def _every_tenth(rows: Iterator[tuple[str, Any]], split: Split, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    """Every tenth row for validation, the others for training."""
    number, other = 0, None
    for number, row in enumerate(rows):
        if (number % VALIDATION_EVERY == 0) == (split == "validation"):
            yield row
        else:
            rules.counts.other_split_rows += 1
            other = row
    if number == 0 and other:  # the only row is in the other split: report if it is not a conversation
        conversation_of(other[1], other[0], FieldRules(Counts(), rules.ignored))


def _rows(files: list[LocalFile], rules: FieldRules) -> Iterator[tuple[str, Any]]:
    for each in files:
        yield from _parquet(each.file, rules) if each.file.suffix.lower() == ".parquet" else json_records(each.file)


def _parquet(file: Path, rules: FieldRules) -> Iterator[tuple[str, Any]]:
    """The rows of a file, without the columns that are always ignored."""
    with read_errors(file, str(file)):
        check_parquet(file, str(file))
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise BadSource(f"`{file}` has two columns `{twice[0]}`.", hint="Rename or remove one.")
            unread = [name for name in names if is_neutral(name) or name in rules.ignored]
            columns = [name for name in names if name not in unread] or names
            number = 0
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                rules.counts.ignored_fields.update(dict.fromkeys(unread, batch.num_rows))
                try:
                    rows = batch.to_pylist(maps_as_pydicts="strict")
                except (ValueError, OverflowError, KeyError) as error:  # a time out of Python's range, a repeated key
                    raise _unreadable(batch, f"`{file}`, rows from {number:,} on,", rules) from error
                for row in rows:
                    yield f"`{file}`, row {number:,},", row
                    number += 1


def _unreadable(batch: pa.RecordBatch, where: str, rules: FieldRules) -> BadSource:
    """The error for rows with a value that Python cannot represent, naming its column."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.to_pylist(maps_as_pydicts="strict")
        except (ValueError, OverflowError, KeyError) as error:
            why = f"it cannot be read ({error})"
            if name in READ:
                return BadSource(f"{where} has the field `{name}`: {why}.", hint="Write the file again.")
            return UnreadFields(where, {name: why}, rules.ignored)
    return BadSource(f"{where} cannot be read.")
