"""What a child process of the compute plane is told, and how it answers.

The parent writes `job.json` and starts `python -m torch.distributed.run … -m <module> job.json`. Beside the job file
the child leaves `metrics.jsonl` (a line per event: `done`, `total`, `unit`, `message`, and numbers), and at the end
either `result.json` (the stage's metrics) or `error.json` (see `errors.NanochatError.to_json`). Payload goes to `out`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nanochat.config.compute import Compute


class Job(BaseModel):
    """One piece of work for the compute plane."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    module: str
    """Module to run: `nanochat.training.pretrain`."""
    config: dict[str, Any]
    """The stage's config, as JSON."""
    inputs: dict[str, list[str]]
    """Name of each input → the local folder of its payload, or the file that says where it is to be read."""
    out: str
    """Local folder for the payload."""
    folder: str
    """Local folder of the job file, for metrics, result, error and logs."""
    checkpoints: str = ""
    """URL under which training saves and finds its state; empty: nowhere."""
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
        """Where an input is."""
        (path,) = self.inputs[name]
        return Path(path)

    def event(self, done: float, total: float, unit: str, message: str = "") -> None:
        """A line for who follows the work."""
        with (Path(self.folder) / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"done": done, "total": total, "unit": unit, "message": message}) + "\n")

    def write_result(self, metrics: dict[str, Any]) -> None:
        """Whole or not at all: a process may be killed in between."""
        written = Path(self.folder) / "result.json.new"
        written.write_text(json.dumps(metrics), encoding="utf-8")
        written.replace(Path(self.folder) / "result.json")

    def write_error(self, error: dict[str, str]) -> None:
        """See `write_error`."""
        write_error(Path(self.folder), error)


def write_error(folder: Path, error: dict[str, str]) -> None:
    """Keeps the first error of a job only: those that follow are its consequences."""
    with suppress(FileExistsError), (folder / "error.json").open("x", encoding="utf-8") as file:
        json.dump(error, file)
