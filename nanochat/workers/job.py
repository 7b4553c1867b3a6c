"""The job file: how the parent starts a worker process of the compute plane, and how the worker reports.

The parent writes `job.json` and starts `python -m nanochat.workers.torchrun … -m <module> job.json`. The worker writes
its payload to `out`, and files beside the job file: `metrics.jsonl` (one line per event: `done`, `total`, `unit`,
`message`, and numbers), and at the end `result.json` (the metrics of the stage) or `error.json` (see
`NanochatError.to_json`).
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nanochat.config.compute import Compute

EXIT_FAILED, EXIT_PREEMPTED = 1, 75
"""Exit codes of a rank; 75 is EX_TEMPFAIL of sysexits.h."""


class Job(BaseModel):
    """The work of one worker process, the same for all ranks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    module: str
    """Module to run: `nanochat.training.pretrain`."""
    config: dict[str, Any]
    """The config of the stage, as JSON."""
    inputs: dict[str, list[str]]
    """Input name → paths: local folders of payloads, or files that list what to read from the store."""
    out: str
    """Local folder for the payload."""
    folder: str
    """Local folder of the job file, for metrics, result, error and logs."""
    checkpoints: str = ""
    """URL of the folder for checkpoints; empty: training keeps none."""
    compute: Compute = Compute()
    """How to run."""

    def path(self) -> Path:
        return Path(self.folder) / "job.json"

    def write(self) -> Path:
        self.path().parent.mkdir(parents=True, exist_ok=True)
        self.path().write_text(self.model_dump_json(indent=2), encoding="utf-8")
        return self.path()

    @classmethod
    def read(cls, path: str | Path) -> Job:
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))

    def input(self, name: str) -> Path:
        """The only path of an input."""
        (path,) = self.inputs[name]
        return Path(path)

    def event(self, done: float, total: float, unit: str, message: str = "") -> None:
        """Appends a line to `metrics.jsonl`, which the parent follows."""
        with (Path(self.folder) / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"done": done, "total": total, "unit": unit, "message": message}) + "\n")

    def write_result(self, metrics: dict[str, Any]) -> None:
        """Writes `result.json` atomically: the process may be killed at any time."""
        written = Path(self.folder) / "result.json.new"
        written.write_text(json.dumps(metrics), encoding="utf-8")
        written.replace(Path(self.folder) / "result.json")


def write_error(folder: Path, error: dict[str, str]) -> None:
    """Writes `error.json` unless it exists: the first error causes those of other ranks."""
    with suppress(FileExistsError), (folder / "error.json").open("x", encoding="utf-8") as file:
        json.dump(error, file)
