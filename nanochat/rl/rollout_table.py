"""Rollouts and evaluations as files.

rollouts.parquet       a row for each sampled answer, a row group for each step
evaluations.jsonl      a line for each evaluation on held-out problems
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.rl.rollouts import Rollout

ROLLOUTS, EVALUATIONS = "rollouts.parquet", "evaluations.jsonl"
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("position", pa.int64()),
        ("sample", pa.int32()),
        ("task", pa.int32()),
        ("prompt", pa.string()),
        ("expected", pa.string()),
        ("text", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("mask", pa.list_(pa.bool_())),
        ("logprobs", pa.list_(pa.float32())),
        ("reward", pa.float64()),
        ("parts", pa.list_(pa.float64())),
        ("right", pa.bool_()),
        ("advantage", pa.float64()),
        ("truncated", pa.bool_()),
        ("ended", pa.bool_()),
        ("failure", pa.string()),
    ]
)
"""`mask`: the model sampled the token; `text` has the special tokens and what the calculator wrote; `reward` is the one
that training used; `failure`: why there is none."""


@dataclass(frozen=True)
class Judged:
    """An answer with the reward and the advantage that training used."""

    rollout: Rollout
    reward: float
    advantage: float


def as_table(step: int, judged: Sequence[Judged]) -> pa.Table:
    """The rows of a step."""
    return pa.Table.from_pylist([_row(step, each) for each in judged], schema=SCHEMA)


def _row(step: int, judged: Judged) -> dict[str, Any]:
    rollout, question = judged.rollout, judged.rollout.prompt.problem.question
    reward = rollout.reward
    assert reward is not None
    return {
        "step": step, "position": rollout.prompt.position, "sample": rollout.sample,
        "task": rollout.prompt.problem.task, "prompt": question["messages"][-1]["content"],
        "expected": question["answer"], "text": rollout.written, "ids": rollout.ids, "mask": rollout.sampled,
        "logprobs": rollout.logprobs, "reward": judged.reward, "parts": reward.parts, "right": reward.right,
        "advantage": judged.advantage, "truncated": rollout.truncated, "ended": rollout.ended,
        "failure": reward.failure,
    }  # fmt: skip


def write_rollouts(path: Path, tables: Iterable[pa.Table]) -> int:
    """Writes the tables of all steps as one file; returns the number of rows."""
    rows = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            rows += len(table)
    return rows


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a model, in the order of their steps."""
    return [json.loads(line) for line in (folder / EVALUATIONS).read_text(encoding="utf-8").splitlines()]
