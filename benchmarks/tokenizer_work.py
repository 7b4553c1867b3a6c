"""What a process of the tokenizer benchmark is started for, and the interface of its peers."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Work:
    """The arguments of a process."""

    task: str
    """`encode`, `train`, or `memory` (training, with its memory)."""
    peer: str
    call: str
    """One of the peer's `calls`."""
    pattern: str
    """Name of a split pattern."""
    threads: int
    vocab_size: int
    folder: str
    """Folder of the vocabularies, which are named after the pattern."""
    train_text: str
    """The file on which the vocabularies were trained."""
    warm_up: str
    """A small file to encode before the measurement."""

    def vocabulary(self, suffix: str) -> Path:
        return Path(self.folder) / f"{self.pattern}{suffix}"

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Peer(ABC):
    """A tokenizer. `load` (not timed), `run` (timed), `ids` (not timed)."""

    package: ClassVar[str]
    calls: ClassVar[Sequence[str]]
    """Documented calls that do the task; each is measured in a process of its own, and the fastest counts."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def load(self, path: Path) -> Any:
        """The texts of a file, in the form that the call takes."""
        return strings(path)

    @abstractmethod
    def run(self, texts: Any) -> Any:
        """The measured call; its result goes to `ids`."""

    def ids(self, result: Any) -> np.ndarray | None:
        """(N,) ids of all texts, concatenated; of training, the trained tokens. None: not comparable."""
        return None


SEPARATOR = b"<|endoftext|>"
"""Between documents, for calls that take one buffer."""


def column(path: Path) -> pa.ChunkedArray:
    return pq.read_table(path, columns=["text"]).column(0)


def strings(path: Path) -> list[str]:
    return column(path).to_pylist()


def flat(rows: Iterable[Sequence[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), np.uint32)
