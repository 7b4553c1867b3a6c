"""`examples.parquet`: every question of an evaluation with the model's answer. All tables are computed from it.

It holds nothing that differs between two equal evaluations; how long each question took is in `times.parquet`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

FILE_NAME = "examples.parquet"
TIMES_FILE_NAME = "times.parquet"

ExampleKind = Literal["choice", "schema", "continuation", "generate"]
"""`choice`: the most likely of several answers; `schema`: the context that makes one ending most likely;
`continuation`: whether the greedy continuation is the answer; `generate`: a generated answer, judged by its task."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One answer to one question."""

    task: str
    question: str
    """Identifies the question in its task."""
    kind: ExampleKind
    sample: int = 0
    """Number of the answer, if a question is answered several times."""
    group: str = ""
    """Questions that share material (a passage, a pair of sentences) have the same group; empty: it shares nothing."""
    subject: str = ""
    """Part of the task that the question belongs to, if the task has parts."""
    baseline: float
    """Accuracy of a guess."""
    prompt: str
    """The question without the examples before it."""
    prompt_sha256: str
    """Of everything that the model read before the answer."""
    span_tokens: tuple[tuple[int, int], ...] = ()
    """First token, and the token after the last, of what was scored, for each choice."""
    choices: tuple[str, ...] = ()
    choice_nats: tuple[float, ...] = ()
    """Negative log-probability of each choice, summed over its tokens; the answer's only, if there are no choices."""
    choice_tokens: tuple[int, ...] = ()
    choice_bytes: tuple[int, ...] = ()
    """UTF-8 bytes of what `choice_nats` counts: of the whole text of a choice, also where choices begin alike."""
    gold: str
    """The right answer."""
    gold_bits: float | None = None
    """Negative log2-probability of the right answer."""
    answer: str
    """The model's."""
    right: bool
    right_flexible: bool | None = None
    """By the task's more lenient rule, if it has one."""
    verdict: str
    """`right`, `wrong`, or why there is no answer: `no answer`, `time limit`, `prompt too long`, ..."""
    truncated: bool = False
    """Whether the answer was cut off, at `max_tokens` or at the end of the context."""


@dataclass(frozen=True)
class Time:
    """How long a question took; questions that are computed together share their time equally."""

    task: str
    question: str
    seconds: float


SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("question", pa.string()),
        ("kind", pa.string()),
        ("sample", pa.int32()),
        ("group", pa.string()),
        ("subject", pa.string()),
        ("baseline", pa.float64()),
        ("prompt", pa.string()),
        ("prompt_sha256", pa.string()),
        ("span_tokens", pa.list_(pa.list_(pa.int32()))),
        ("choices", pa.list_(pa.string())),
        ("choice_nats", pa.list_(pa.float64())),
        ("choice_tokens", pa.list_(pa.int32())),
        ("choice_bytes", pa.list_(pa.int32())),
        ("gold", pa.string()),
        ("gold_bits", pa.float64()),
        ("answer", pa.string()),
        ("right", pa.bool_()),
        ("right_flexible", pa.bool_()),
        ("verdict", pa.string()),
        ("truncated", pa.bool_()),
    ]
)


def prompt_hash(prompt: str) -> str:
    """SHA-256 of a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def write_examples(folder: Path, examples: Iterable[Example], times: Iterable[Time] = ()) -> None:
    """Writes `examples.parquet` and `times.parquet`."""
    pq.write_table(as_table(examples), folder / FILE_NAME, compression="zstd")
    schema = pa.schema([("task", pa.string()), ("question", pa.string()), ("seconds", pa.float64())])
    table = pa.Table.from_pylist([asdict(time) for time in times], schema=schema)
    pq.write_table(table, folder / TIMES_FILE_NAME, compression="zstd")


def read_examples(folder: Path) -> list[Example]:
    """The examples of an evaluation, in the order in which they were written."""
    return from_table(pq.read_table(folder / FILE_NAME))


def as_table(examples: Iterable[Example]) -> pa.Table:
    """A row for each example."""
    return pa.Table.from_pylist([asdict(example) for example in examples], schema=SCHEMA)


def from_table(table: pa.Table) -> list[Example]:
    """The examples of a table that `as_table` made."""
    return [_example(row) for row in table.to_pylist()]


def by_task(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples of each task."""
    tasks: dict[str, list[Example]] = {}
    for example in examples:
        tasks.setdefault(example.task, []).append(example)
    return tasks


def _example(row: dict[str, object]) -> Example:
    values = {field.name: row[field.name] for field in fields(Example)}
    values["span_tokens"] = tuple(tuple(span) for span in values["span_tokens"])  # type: ignore[union-attr]
    for name in ("choices", "choice_nats", "choice_tokens", "choice_bytes"):
        values[name] = tuple(values[name])  # type: ignore[arg-type]
    return Example(**values)  # type: ignore[arg-type]
