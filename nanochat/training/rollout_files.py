"""The rollouts and evaluations of a run, kept in the store until it ends: a run that resumes has those before it.

<checkpoints>/rollouts/step-00000012.parquet       written by the first rank at each step
<checkpoints>/evaluations/step-00000012.json
"""

from __future__ import annotations

import json
import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.errors import NanochatError
from nanochat.rl.rollout_table import EVALUATIONS, ROLLOUTS, write_rollouts
from nanochat.sources.retry import with_retries
from nanochat.store.objects import Objects

LOG = logging.getLogger("nanochat.rl")


class RolloutFiles:
    """The files of a run under the URL of its checkpoints; with an empty URL, in a local folder only.

    A file that the store refuses is kept here: it is missing only after an interruption.
    """

    def __init__(self, url: str, folder: Path) -> None:
        root, _, self._prefix = url.rpartition("/")
        self._objects = Objects(root) if url else None
        self._folder = folder / "kept"

    def keep_rollouts(self, step: int, table: pa.Table) -> None:
        file = BytesIO()
        pq.write_table(table, file, compression="zstd")
        self._keep(f"rollouts/step-{step:08d}.parquet", file.getvalue())

    def keep_evaluation(self, step: int, evaluation: dict[str, Any]) -> None:
        self._keep(f"evaluations/step-{step:08d}.json", json.dumps(evaluation, ensure_ascii=False).encode())

    def write(self, out: Path, steps: int) -> dict[str, Any]:
        """Writes `rollouts.parquet` and `evaluations.jsonl` of the first `steps` steps to `out`; returns numbers.

        A step whose rollouts the store has lost is left out, and counted.
        """
        tables = [self._read(f"rollouts/step-{step:08d}.parquet") for step in range(steps)]
        found = [pq.read_table(BytesIO(content)) for content in tables if content is not None]
        rows = write_rollouts(out / ROLLOUTS, found)
        lines = [self._read(f"evaluations/step-{step:08d}.json") for step in range(steps + 1)]
        texts = [content.decode() for content in lines if content is not None]
        (out / EVALUATIONS).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return {"rollouts": rows, "steps_without_rollouts": steps - len(found)}

    def _keep(self, name: str, content: bytes) -> None:
        local = self._folder / name
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(content)
        objects = self._objects
        if objects is None:
            return
        try:
            with_retries(lambda: objects.write(f"{self._prefix}/{name}", content))
        except NanochatError as error:
            LOG.warning("`%s` could not be kept for a run that resumes: %s", name, error)

    def _read(self, name: str) -> bytes | None:
        local = self._folder / name
        if local.exists():
            return local.read_bytes()
        objects = self._objects
        if objects is None or objects.size(f"{self._prefix}/{name}") is None:
            return None
        return with_retries(lambda: objects.read(f"{self._prefix}/{name}"))
