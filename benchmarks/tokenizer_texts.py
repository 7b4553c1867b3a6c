"""The texts of the tokenizer benchmark, split into files: training text, and text that no process has seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.world.documents import documents

TRAIN_BYTES = 100_000_000
UNSEEN_BYTES = 12_000_000
"""A file of unseen text: the first one of a process is *cold*."""
GENERATED_BYTES = 60_000_000
QUICK = 10
"""With `--quick`, all sizes are divided by this."""


@dataclass
class Texts:
    """Parquet files (`text`, zstd, row groups of 1,024), and the bytes of text in each."""

    description: str
    train: Path
    everything: Path
    warm_up: Path
    unseen: list[Path]
    mixed: list[Path]
    sizes: dict[Path, int] = field(default_factory=dict)


def prepare(folder: Path, files: Sequence[Path], mixed: Sequence[Path], repetitions: int, quick: bool) -> Texts:
    """Writes the files into `folder`: the training text, and an unseen file for each repetition.

    Without `files`, the text is generated; without `mixed`, there is no multilingual text.
    """
    scale = QUICK if quick else 1
    if files:
        plain, description = read(files), ", ".join(path.name for path in files)
    else:
        plain = generated(GENERATED_BYTES // scale)
        description = "the world of nanochat.world (generated, and easier than text that people write)"
    other = read(mixed) if mixed else []
    train_plain, rest = cut(plain, min(TRAIN_BYTES // scale * (8 if other else 10) // 10, size(plain) // 2))
    train_other, rest_other = cut(other, min(TRAIN_BYTES // scale * 2 // 10, size(other) // 4))
    texts = Texts(
        description, folder / "train.parquet", folder / "everything.parquet", folder / "warm_up.parquet", [], []
    )
    write(texts, texts.train, train_plain + train_other)
    write(texts, texts.everything, plain + other)
    write(texts, texts.warm_up, train_plain[:100])
    for name, files_of, left in (("unseen", texts.unseen, rest), ("mixed", texts.mixed, rest_other)):
        bytes_each = min(UNSEEN_BYTES // scale, size(left) // repetitions)
        for number in range(repetitions if left else 0):
            some, left = cut(left, bytes_each)
            write(texts, folder / f"{name}_{number}.parquet", some)
            files_of.append(folder / f"{name}_{number}.parquet")
    return texts


def read(files: Sequence[Path]) -> list[str]:
    """Documents of Parquet files with a column `text`; of a plain text, the parts between empty lines."""
    found: list[str] = []
    for path in files:
        if path.suffix == ".parquet":
            found += pq.read_table(path, columns=["text"]).column(0).to_pylist()
        else:
            found += path.read_text(encoding="utf-8", errors="replace").split("\n\n")
    return found


def generated(wanted_bytes: int) -> list[str]:
    def stream() -> Iterator[str]:
        shard = 0
        while True:
            yield from documents(1, shard, 10_000)
            shard += 1

    return take(stream(), wanted_bytes)


def take(stream: Iterator[str], wanted_bytes: int) -> list[str]:
    found, size_bytes = [], 0
    while size_bytes < wanted_bytes:
        found.append(next(stream))
        size_bytes += len(found[-1].encode())
    return found


def cut(texts: list[str], wanted_bytes: int) -> tuple[list[str], list[str]]:
    """The first documents, of `wanted_bytes` together, and the others."""
    size_bytes = 0
    for number, text in enumerate(texts):
        if size_bytes >= wanted_bytes:
            return texts[:number], texts[number:]
        size_bytes += len(text.encode())
    return texts, []


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def write(texts: Texts, path: Path, documents_of_file: list[str]) -> None:
    table = pa.table({"text": pa.array(documents_of_file, pa.string())})
    pq.write_table(table, path, compression="zstd", row_group_size=1024)
    texts.sizes[path] = size(documents_of_file)
