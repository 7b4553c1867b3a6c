"""Experiment trackers, which also receive the metrics: `--compute tracking.trackers='["wandb"]'`.

Nothing depends on a tracker: all metrics are in `metrics.jsonl`.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from nanochat.errors import BadConfig
from nanochat.workers.job import Job

PROJECT = "nanochat"


class Tracker(Protocol):
    """A service that receives the metrics of each step."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def open_tracker(name: str, job: Job) -> Tracker:
    """Opens a tracker for a run named after the job's folder. Raises `BadConfig` if it is not installed."""
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    try:
        library: Any = importlib.import_module(module)
    except ImportError:
        raise BadConfig(
            f"`compute.tracking.trackers` names `{name}`, which is not installed.", hint=f"`pip install {name}`."
        ) from None
    if name == "tensorboard":
        return _TensorBoard(library.SummaryWriter(str(Path(job.folder) / "tensorboard")))
    folder = {"dir": job.folder} if name == "wandb" else {}
    return _Run(library.init(project=PROJECT, name=Path(job.folder).name, config=job.config, **folder))


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Run:
    """A run of wandb, or of trackio, which has the same interface."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()
