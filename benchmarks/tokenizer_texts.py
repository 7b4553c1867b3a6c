"""The texts of the benchmark of tokenizers, cut into files: what is learnt from, and what nobody has seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.world.documents import documents

LEARN_BYTES = 100_000_000
CHUNK_BYTES = 20_000_000
GENERATED_BYTES = 60_000_000
QUICK = 10
"""With `--quick`, everything is so many times smaller."""


@dataclass
class Texts:
    """Parquet files (`text`, zstd, row groups of 1,024), and how many bytes of text are in each."""

    description: str
    learn: Path
    everything: Path
    warm_up: Path
    unseen: list[Path]
    mixed: list[Path]
    sizes: dict[Path, int] = field(default_factory=dict)


def prepare(folder: Path, files: Sequence[Path], mixed: Sequence[Path], repetitions: int, quick: bool) -> Texts:
    """Writes the files into `folder`: one to learn from, and for each repetition one that is not in it.

    Without `files`, text is invented; without `mixed`, there is no multilingual text.
    """
    scale = QUICK if quick else 1
    if files:
        plain, description = read(files), ", ".join(path.name for path in files)
    else:
        plain = invented(GENERATED_BYTES // scale)
        description = "the world of nanochat.world (invented, and easier than what people write)"
    other = read(mixed) if mixed else []
    learn_plain, rest = cut(plain, min(LEARN_BYTES // scale * (8 if other else 10) // 10, size(plain) // 2))
    learn_other, rest_other = cut(other, min(LEARN_BYTES // scale * 2 // 10, size(other) // 4))
    texts = Texts(
        description, folder / "learn.parquet", folder / "everything.parquet", folder / "warm_up.parquet", [], []
    )
    write(texts, texts.learn, learn_plain + learn_other)
    write(texts, texts.everything, plain + other)
    write(texts, texts.warm_up, learn_plain[:100])
    for name, files_of, left in (("unseen", texts.unseen, rest), ("mixed", texts.mixed, rest_other)):
        bytes_each = min(CHUNK_BYTES // scale, size(left) // repetitions)
        for number in range(repetitions if left else 0):
            some, left = cut(left, bytes_each)
            write(texts, folder / f"{name}_{number}.parquet", some)
            files_of.append(folder / f"{name}_{number}.parquet")
    return texts


def read(files: Sequence[Path]) -> list[str]:
    """Documents of Parquet files with a column `text`; of a plain text, what empty lines separate."""
    found: list[str] = []
    for path in files:
        if path.suffix == ".parquet":
            found += pq.read_table(path, columns=["text"]).column(0).to_pylist()
        else:
            found += path.read_text(encoding="utf-8", errors="replace").split("\n\n")
    return found


def invented(wanted_bytes: int) -> list[str]:
    def endless() -> Iterator[str]:
        shard = 0
        while True:
            yield from documents(1, shard, 10_000)
            shard += 1

    return cut_stream(endless(), wanted_bytes)


def cut_stream(stream: Iterator[str], wanted_bytes: int) -> list[str]:
    found, held = [], 0
    while held < wanted_bytes:
        found.append(next(stream))
        held += len(found[-1].encode())
    return found


def cut(texts: list[str], wanted_bytes: int) -> tuple[list[str], list[str]]:
    """The first documents that have so many bytes, and the others."""
    held = 0
    for number, text in enumerate(texts):
        if held >= wanted_bytes:
            return texts[:number], texts[number:]
        held += len(text.encode())
    return texts, []


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def write(texts: Texts, path: Path, documents_of_file: list[str]) -> None:
    table = pa.table({"text": pa.array(documents_of_file, pa.string())})
    pq.write_table(table, path, compression="zstd", row_group_size=1024)
    texts.sizes[path] = size(documents_of_file)
