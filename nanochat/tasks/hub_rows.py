"""Rows of a Hugging Face dataset: from the Hub, or from a folder with the same layout."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.errors import BadSource, SourceUnreachable
from nanochat.sources.hub_address import parse_hub_address
from nanochat.sources.hub_errors import dataset_errors, first_line
from nanochat.sources.local_files import is_local, local_path
from nanochat.sources.retry import with_retries

Row = dict[str, Any]
T = TypeVar("T")
HINT = "Set `source` to a dataset that has this split: a folder of Parquet files, or `hf://org/name[@revision]`."


def hub_rows(source: str, default: str, configuration: str | None, split: str) -> Iterator[tuple[str, Row]]:
    """Each row of a split, with its name for errors.

    `source` is empty (the `default` id), an id `org/name`, `hf://org/name[@revision]`, or a folder with the Hub's
    layout: `<configuration, or data>/<split>-*.parquet`. Raises `BadSource` if the dataset, configuration or split does
    not exist, `SourceUnreachable` if the network failed.
    """
    folder = local_path(source) if is_local(source) else None
    if source and folder and (folder.exists() or folder.is_absolute()):
        return _folder_rows(folder, configuration, split)
    if not folder and not source.startswith("hf://"):
        raise BadSource(f"A dataset cannot be read from the address `{source}`.", hint=HINT)
    name, revision, inside = parse_hub_address(f"hf://{(source or default).removeprefix('hf://')}")
    if inside:
        raise BadSource(
            f"`{source}` names the folder `{inside}` of a dataset, which is read as a whole.",
            hint="Remove the folder, or download it and use the local one; write `/` in a revision as `%2F`.",
        )
    return _downloaded_rows(name, revision, configuration, split)


def shuffled(rows: Iterable[T]) -> Iterator[tuple[int, T]]:
    """All rows with their numbers, in the order in which nanochat uses them: then the first N are the same N.

    It shuffles with `datasets` and the seed 42, which is this permutation.
    """
    found = list(rows)
    for number in np.random.default_rng(42).permutation(len(found)).tolist():
        yield number, found[number]


def field(row: Mapping[str, Any], name: str, where: str) -> Any:
    """A required field. Raises `BadSource`, naming the row and its fields, if it is missing."""
    if row.get(name) is None:
        raise BadSource(
            f"{where} has no `{name}` (it has {', '.join(f'`{key}`' for key in row)}).",
            hint="Set `source` to a dataset with the fields of the original one.",
        )
    return row[name]


def _folder_rows(folder: Path, configuration: str | None, split: str) -> Iterator[tuple[str, Row]]:
    # not read through `datasets`, whose cache can return an older state of a local folder
    files = sorted((folder / (configuration or "data")).glob(f"{split}-*.parquet"))
    if not files:
        raise BadSource(f"`{folder}` has no `{configuration or 'data'}/{split}-*.parquet`.", hint=HINT)
    for file in files:
        number = 0
        try:
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(1024):
                    for row in batch.to_pylist():
                        yield f"`{file}`, row {number},", row
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise BadSource(f"`{file}` cannot be read: {first_line(error)}.") from error


def _downloaded_rows(
    name: str, revision: str | None, configuration: str | None, split: str
) -> Iterator[tuple[str, Row]]:
    # takes seconds, and only these tasks need it
    from datasets import load_dataset  # noqa: PLC0415

    where = f"`{name}`" + (f" ({configuration})" if configuration else "") + f", split `{split}`,"

    def load() -> Iterable[Any]:
        try:
            with dataset_errors(f"hf://{name}", name, revision, where, HINT):
                return load_dataset(name, configuration, split=split, revision=revision)
        except SourceUnreachable as error:
            error.hint = "Try again, or set `source` to a local copy of the dataset."
            raise

    for number, row in enumerate(with_retries(load)):
        yield f"{where} row {number},", dict(row)
