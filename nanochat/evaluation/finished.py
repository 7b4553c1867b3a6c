"""Finished tasks of an evaluation that has not ended, in the store: the same run, here or elsewhere, skips them.

<checkpoints>/tasks/<SHA-256 of the content>.parquet        examples; name of the task, times and facts as metadata
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.errors import NanochatError
from nanochat.evaluation.examples import Example, Time, as_table, from_table
from nanochat.sources.retry import with_retries
from nanochat.store.objects import Objects

LOG = logging.getLogger("nanochat.evaluation")
FOLDER = "tasks"


@dataclass(frozen=True)
class Finished:
    """All answers to the questions of one task."""

    task: str
    examples: list[Example]
    times: list[Time]
    facts: dict[str, Any] = field(default_factory=dict)
    """What else is needed of it: JSON."""


class FinishedTasks:
    """The finished tasks under the URL of a stage's checkpoints; an empty URL keeps nothing."""

    def __init__(self, url: str) -> None:
        root, _, self._prefix = url.rpartition("/")
        self._objects = Objects(root) if url else None

    def load(self) -> dict[str, Finished]:
        """The tasks that are finished, by name. Damaged ones are left out. Raises a `StoreError`."""
        objects = self._objects
        if objects is None:
            return {}
        found: dict[str, Finished] = {}
        for entry in sorted(objects.list(f"{self._prefix}/{FOLDER}"), key=lambda entry: entry.path):
            content = with_retries(lambda path=entry.path: objects.read(path))
            if entry.path.endswith(f"/{hashlib.sha256(content).hexdigest()}.parquet"):
                task = _decoded(content)
                found.setdefault(task.task, task)
        return found

    def save(self, task: Finished) -> None:
        """Keeps a finished task. If the store fails, the task is done again after an interruption: this is logged."""
        objects = self._objects
        if objects is None:
            return
        content = _encoded(task)
        path = f"{self._prefix}/{FOLDER}/{hashlib.sha256(content).hexdigest()}.parquet"
        try:
            with_retries(lambda: objects.write(path, content))
        except NanochatError as error:
            LOG.warning("The answers to `%s` could not be saved for a later run: %s", task.task, error)


def _encoded(task: Finished) -> bytes:
    times = [[time.question, time.seconds] for time in task.times]
    about = json.dumps({"task": task.task, "times": times, "facts": task.facts})
    table = as_table(task.examples).replace_schema_metadata({"nanochat": about})
    file = BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def _decoded(content: bytes) -> Finished:
    table: pa.Table = pq.read_table(BytesIO(content))
    about = json.loads((table.schema.metadata or {})[b"nanochat"])
    times = [Time(about["task"], question, seconds) for question, seconds in about["times"]]
    return Finished(about["task"], from_table(table), times, about["facts"])
