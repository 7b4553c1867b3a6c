"""A run that takes seconds: bytes for a vocabulary, rows of a simple pattern, two layers.

python -m tests.training.tiny DATA FOLDER RANKS STEPS          trains; for tests that kill it
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.config.training import Horizon, ModelConfig, OptimizerConfig, PretrainConfig
from nanochat.events import Reporter, silent
from nanochat.execution.stage import Context
from nanochat.tokenizer.bpe import Tokenizer
from nanochat.workers.job import Job
from nanochat.workers.launch import launch
from tests.compute import compute
from tests.rows import write_rows

T = 32


def make_data(folder: Path, sequence_len: int = T) -> Path:
    """`vocabulary` and `rows`: each row counts up from somewhere, in steps of one to three."""
    (folder / "vocabulary").mkdir(parents=True)
    Tokenizer.from_merges([]).save(folder / "vocabulary" / "vocabulary.json")
    generator = np.random.default_rng(1)
    made = {}
    for split, rows in (("train", 64), ("validation", 8)):
        ids = generator.integers(0, 100, (rows, 1)) + generator.integers(1, 4, (rows, 1)) * np.arange(sequence_len + 1)
        made[split] = (ids % 256).astype(np.uint16)
    write_rows(folder / "rows", **made)
    return folder


def make_conversations(folder: Path, *, trained: bool = True) -> Path:
    """The index of masked rows of the same pattern: the second half is trained on, or nothing is."""
    mask = np.zeros((16, T + 1), np.uint8)
    mask[:, T // 2 :] = trained
    ids = (np.arange(16)[:, None] + np.arange(T + 1)).astype(np.uint16)
    return write_rows(folder, mask, train=ids, validation=ids)


def config(steps: int = 12, **optimizer: float) -> PretrainConfig:
    return PretrainConfig(
        model=ModelConfig(depth=2, aspect_ratio=32, head_dim=32),
        optimizer=OptimizerConfig(warmup_steps=2, **optimizer),
        horizon=Horizon(unit="steps", amount=steps),
        batch_tokens=8 * T,
        precision="fp32",
        evaluate_every_steps=5,
        evaluation_tokens=4 * T,
    )


def context(folder: Path, progress: Reporter = silent, checkpoints: str = "", **how: Any) -> Context:
    """`how` sets fields of `Compute`."""
    (folder / "out").mkdir(parents=True)
    return Context(compute(**{"device": "cpu", "ranks": 1, **how}), progress, checkpoints, folder)


def launched(
    data: Path, folder: Path, checkpoints: str = "", steps: int = 12, progress: Reporter = silent, **how: Any
) -> dict[str, Any]:
    """Pretraining under torchrun; its payload is in `folder/out`."""
    around = context(folder, progress, checkpoints, **how)
    inputs: dict[str, Path | list[Path]] = {"vocabulary": data / "vocabulary", "rows": data / "rows" / "rows.json"}
    return launch("nanochat.training.pretrain", config(steps), inputs, folder / "out", around)


def job(data: Path, folder: Path, checkpoints: str = "", of: PretrainConfig | None = None, **how: Any) -> Job:
    """The job of a worker that is called in this process."""
    (folder / "out").mkdir(parents=True)
    return Job(
        module="nanochat.training.pretrain",
        config=(of or config()).model_dump(mode="json"),
        inputs={"vocabulary": [str(data / "vocabulary")], "rows": [str(data / "rows" / "rows.json")]},
        out=str(folder / "out"),
        folder=str(folder),
        checkpoints=checkpoints,
        compute=compute(**{"device": "cpu", **how}),
    )


def curve(folder: Path) -> list[tuple[int, float, float | None]]:
    """Step, loss and validation of each line of the payload's metrics."""
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return [(line["done"], line["loss"], line.get("validation_bits_per_byte")) for line in lines]


if __name__ == "__main__":
    data, folder, ranks, steps = sys.argv[1:]
    launched(
        Path(data), Path(folder), (Path(data) / "checkpoints" / f"of-{ranks}").as_uri(), int(steps),
        ranks=int(ranks), every_s=0.1,
    )  # fmt: skip
